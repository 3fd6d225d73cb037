"""Codecs in an exchange, and the sizes of messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import Codec, Exchange, Scheme, Signals
from rl_agg.codecs import Encoded, Float16, Identity
from tests.core.gradients import normal

vectors = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-60000, 60000, width=32))


def signals(num_agents: int) -> Signals:
    return Signals(returns=torch.arange(num_agents, dtype=torch.float64))


@pytest.mark.parametrize("name", ["identity", "float16", "bfloat16", "top_k", "sign"])  # others draw, by an agent's number
@given(rows=vectors, seed=st.integers(0, 99))
def test_agents_are_encoded_one_by_one(name: str, rows: np.ndarray, seed: int) -> None:
    """Any order of the agents gives the same messages in that order, in an exchange too."""
    order = np.random.default_rng(seed).permutation(len(rows))
    plain, moved = (Exchange(Scheme(codec=name, rule="r_weighted"), len(rows)) for _ in range(2))
    returns = torch.arange(len(rows), dtype=torch.float64)
    for _ in range(2):
        one = plain.merge(torch.from_numpy(rows.copy()), Signals(returns=returns))
        other = moved.merge(torch.from_numpy(rows[order].copy()), Signals(returns=returns[order]))
        assert one.weights is not None
        assert other.weights is not None
        torch.testing.assert_close(other.weights, one.weights[order])
        torch.testing.assert_close(other.vector, one.vector, rtol=1e-3, atol=1e-2 * float(np.abs(rows).max() + 1e-6))
    assert (plain.ledger.bytes_per_agent[order] == moved.ledger.bytes_per_agent).all()


def test_identity_is_exact_to_the_bit() -> None:
    rows = normal(4, 7) * 1e30
    assert torch.equal(Identity()(rows).decoded, rows)
    sent = Exchange(Scheme(rule=lambda signals: [0.0, 0.0, 1.0, 0.0]), 4).merge(rows.clone(), signals(4))
    assert torch.equal(sent.vector, rows[2])


def test_float16_keeps_what_is_not_finite_and_bounds_what_is_too_large() -> None:
    rows = torch.tensor([[1e6, -1e6, math.inf, -math.inf, math.nan, 1.0]])
    assert Float16()(rows).decoded[0].nan_to_num(7.0).tolist() == [65504.0, -65504.0, *rows[0, 2:4].nan_to_num(7.0), 7.0, 1.0]


class Halved(Codec):
    """Loses half of everything."""

    def __call__(self, rows: torch.Tensor) -> Encoded:
        return Encoded(rows / 2, torch.full((len(rows),), 9))


def test_a_codec_of_ones_own_is_counted_in_whole_bytes() -> None:
    one = Exchange(Scheme(codec=Halved()), 2)
    first = one.merge(torch.full((2, 3), 8.0), signals(2))
    second = one.merge(torch.full((2, 3), 8.0), signals(2))
    assert first.vector.tolist() == [4.0] * 3
    assert second.vector.tolist() == [6.0] * 3  # half of 8 and the 4 that were lost
    assert one.ledger.bytes == 2 * 2 * 2


@pytest.mark.parametrize("gate", [{}, {"gate": "lag"}, {"gate": "random", "gate_kwargs": {"expected_messages": 2}}])
@given(present=st.lists(st.booleans(), min_size=3, max_size=3))
def test_agents_at_fault_send_nothing_and_change_nothing(gate: dict[str, Any], present: list[bool]) -> None:
    mask = torch.tensor(present)
    one = Exchange(Scheme(codec="float16", rule="sum", **gate), 3)
    merged = one.merge(torch.where(mask[:, None], normal(3, 4), torch.nan), signals(3))
    assert not (merged.sends & ~mask).any()
    assert torch.equal(merged.masked, ~mask)
    assert (merged.weights == merged.present).all()
    expected = (normal(3, 4).half().float() * merged.sends[:, None]).sum(0)
    torch.testing.assert_close(merged.vector, expected)
    assert one.ledger.messages_per_agent.tolist() == merged.sends.long().tolist()
