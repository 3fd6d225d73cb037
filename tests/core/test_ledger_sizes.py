"""Canonical sizes of what is no float32 number."""

from __future__ import annotations

import pytest

from rl_agg.ledger import Ledger


def test_ids_and_transitions() -> None:
    ledger = Ledger(3)
    ledger.upload([1, 0, 1], scalars=1, ids=1)
    ledger.upload([1, 1, 0], transitions=[5, 2, 7])
    assert ledger.bytes_per_agent.tolist() == [6 + 45, 18, 6]
    assert ledger.messages == 4
    assert ledger.bytes_of("transitions") == 63
    assert ledger.bytes_of("ids") == 4


def test_a_state_from_before_they_were_counted() -> None:
    ledger, other = Ledger(2), Ledger(2)
    ledger.upload([1, 1], scalars=3)
    state = ledger.state_dict()
    for counts in (state["up"], state["down"]):
        del counts["ids"], counts["transitions"]
    other.load_state_dict(state)
    assert other.state_dict() == ledger.state_dict()


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="sizes must be integers >= 0"):
        Ledger(2).upload([1, 1], transitions=[1, -1])
