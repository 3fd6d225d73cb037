"""The ledger: numbers worked by hand."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_agg import Ledger
from rl_agg.ledger import KINDS, SIZES


def test_numbers_by_hand() -> None:
    """Agent 0 sends a gradient of 10 numbers and a return, twice; agent 1 once; agent 2 sends 7 parameters."""
    ledger = Ledger(3)
    ledger.upload([True, True, False], gradients=10, scalars=1)
    ledger.upload([1, 0, 0], gradients=10, scalars=1, physical_bytes=50)
    ledger.upload(np.array([0, 0, 1]), parameters=7)
    ledger.download([2, 2, 2], parameters=10, physical_bytes=300)
    assert ledger.messages == 4
    assert ledger.messages_per_agent.tolist() == [2, 1, 1]
    assert ledger.bytes_per_agent.tolist() == [4 * 2 * 11, 4 * 11, 4 * 7]
    assert ledger.bytes == 4 * (3 * 11 + 7) == 160
    assert ledger.bytes_down == 4 * 6 * 10 == 240
    assert {kind: ledger.bytes_of(kind) for kind in KINDS if ledger.bytes_of(kind)} == {
        "gradients": 120,
        "parameters": 28,
        "scalars": 12,
    }
    assert ledger.physical_bytes == 350
    assert ledger.summary() == {"messages": 4, "bytes": 160, "bytes_down": 240, "physical_bytes": 350}


def test_a_message_may_be_empty_and_an_answer_is_none() -> None:
    ledger = Ledger(2)
    ledger.upload([1, 0])
    ledger.download([5, 5], scalars=1)
    assert (ledger.messages, ledger.bytes, ledger.bytes_down) == (1, 0, 40)


def test_counts_may_be_tensors() -> None:
    ledger = Ledger(2)
    ledger.upload(torch.tensor([True, False]), gradients=3)
    ledger.upload(torch.tensor([2, 1]), gradients=3)
    assert ledger.messages_per_agent.tolist() == [3, 1]


def test_counts_beyond_32_bits() -> None:
    ledger = Ledger(1)
    for _ in range(3):
        ledger.upload([1000], gradients=750_000_000)
    assert ledger.bytes == 9 * 10**12


def test_ids_and_transitions() -> None:
    ledger = Ledger(3)
    ledger.upload([1, 0, 1], scalars=1, ids=1)
    ledger.upload([1, 1, 0], transitions=[5, 2, 7])
    assert ledger.bytes_per_agent.tolist() == [6 + 45, 18, 6]
    assert ledger.messages == 4
    assert ledger.bytes_of("transitions") == 63
    assert ledger.bytes_of("ids") == 4


def test_kinds_that_a_state_lacks_count_nothing() -> None:
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


def test_encoded_messages_have_bytes_of_their_own() -> None:
    """Agent 0: 2 messages of 7 bytes of gradients and a return. Agent 2: one of 9 bytes and 3 further numbers."""
    ledger = Ledger(3)
    ledger.upload([2, 0, 0], encoded={"gradients": [7, 0, 0]}, scalars=1)
    ledger.upload([0, 0, 1], encoded={"gradients": np.array([0, 0, 9])}, gradients=3)
    assert ledger.bytes_per_agent.tolist() == [2 * (7 + 4), 0, 9 + 12]
    assert ledger.bytes_of("gradients") == 2 * 7 + 9 + 12
    with pytest.raises(ValueError, match="unknown kind 'gradient'"):
        ledger.upload([1, 1, 1], encoded={"gradient": 1})
    with pytest.raises(ValueError, match="sizes must be integers >= 0"):
        ledger.upload([1, 1, 1], encoded={"gradients": -1})


rounds = st.lists(st.tuples(st.lists(st.integers(0, 5), min_size=3, max_size=3), st.sampled_from(KINDS), st.integers(0, 99)))


@given(sent=rounds, received=rounds)
def test_totals_are_those_of_the_agents_and_of_the_kinds(sent: list[Any], received: list[Any]) -> None:
    ledger = Ledger(3)
    for times, kind, number in sent:
        ledger.upload(times, **{kind: number})
    for times, kind, number in received:
        ledger.download(times, **{kind: number})
    assert ledger.messages == sum(sum(times) for times, _, _ in sent)
    assert ledger.bytes == sum(SIZES[kind] * sum(times) * number for times, kind, number in sent)
    assert ledger.bytes == ledger.bytes_per_agent.sum() == sum(ledger.bytes_of(kind) for kind in KINDS)
    assert ledger.bytes_down == sum(SIZES[kind] * sum(times) * number for times, kind, number in received)


def filled() -> Ledger:
    ledger = Ledger(3)
    ledger.upload([3, 2, 1], gradients=5, scalars=2, physical_bytes=9)
    ledger.upload([0, 1, 0], samples=4)
    ledger.download([1, 1, 1], parameters=5)
    return ledger


def test_state_goes_through_a_file_and_back() -> None:
    state = json.loads(json.dumps(filled().state_dict()))
    ledger = Ledger(3)
    ledger.upload([9, 9, 9], samples=9)
    ledger.load_state_dict(state)
    assert ledger.state_dict() == filled().state_dict()
    ledger.upload([1, 1, 1], gradients=1)
    assert ledger.messages == filled().messages + 3
    assert state == filled().state_dict()


@pytest.mark.parametrize(("num_agents", "messages"), [(5, [3, 3, 1, 0, 0]), (2, [3, 3])])
def test_more_and_fewer_agents_after_a_load(num_agents: int, messages: list[int]) -> None:
    ledger = Ledger(num_agents)
    ledger.load_state_dict(filled().state_dict())
    assert ledger.messages_per_agent.tolist() == messages
    assert ledger.bytes_down == 4 * 5 * min(num_agents, 3)


@pytest.mark.parametrize("num_agents", [0, -1, 1.5, True, "3", None])
def test_a_number_of_agents_that_is_none(num_agents: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"num_agents must be an integer >= 1, got {num_agents!r}")):
        Ledger(num_agents)


@pytest.mark.parametrize("way", ["upload", "download"])
@pytest.mark.parametrize(
    ("times", "numbers", "message"),
    [
        ([1, 1], {"gradients": 1}, "times must be [A] = [3] whole numbers, not negative, got [1, 1]"),
        ([1, -1, 0], {}, "times must be [A] = [3] whole numbers, not negative"),
        ([0.5, 1.0, 1.0], {}, "times must be [A] = [3] whole numbers, not negative"),
        ([float("inf"), 1.0, 1.0], {}, "times must be [A] = [3] whole numbers, not negative"),
        (1, {}, "times must be [A] = [3] whole numbers, not negative, got 1"),
        (
            [1, 1, 1],
            {"gradient": 1},
            "unknown kind 'gradient' (did you mean 'gradients'?); choose from gradients, ids, parameters",
        ),
        ([1, 1, 1], {"scalars": 2, "samples": -1}, "sizes must be integers >= 0, got {'scalars': 2, 'samples': -1}, {} and"),
        ([1, 1, 1], {"scalars": 1.5}, "sizes must be integers >= 0"),
        ([1, 1, 1], {"physical_bytes": -1}, "sizes must be integers >= 0, got {}, {} and physical_bytes=-1"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_counts_nothing(
    way: str, times: Any, numbers: dict[str, Any], message: str
) -> None:
    ledger = Ledger(3)
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(ledger, way)(times, **numbers)
    assert ledger.state_dict() == Ledger(3).state_dict()


def test_bytes_of_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match=re.escape("unknown kind 'sample' (did you mean 'samples'?)")):
        Ledger(1).bytes_of("sample")
