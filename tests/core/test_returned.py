"""What combiners, gates and codecs of one's own return: taken where it is clear, and refused by name where it is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import Codec, Combiner, Exchange, Scheme, Signals, register_gate
from rl_agg.codecs import Encoded
from rl_agg.combiners import MixTailor
from rl_agg.gates import GATES, VectorGate

GRADIENTS = torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, 0.0]])
MEAN = [2.0, 3.0, 3.0]
BOTH = Signals(returns=torch.tensor([0.0, 1.0]))


@pytest.fixture(autouse=True)
def _no_gate_is_left() -> Iterator[None]:
    yield
    for name in list(GATES.added):
        del GATES[name], GATES.added[name]


def combiner(merge: Callable[[torch.Tensor], Any]) -> Combiner:
    kind = type("Mine", (Combiner,), {"merge": lambda self, gradients, *, num_masked, step: merge(gradients)})
    return kind()  # type: ignore[no-any-return]


def codec(encode: Callable[[torch.Tensor], Any]) -> Codec:
    return type("Mine", (Codec,), {"__call__": lambda self, rows: encode(rows)})()  # type: ignore[no-any-return]


def gate(decide: Callable[[], Any]) -> str:
    register_gate("mine", type("Mine", (VectorGate,), {"holds": False, "decide": lambda self, offer: decide()}))
    return "mine"


def merged(**choices: Any) -> tuple[list[float], Exchange]:
    exchange = Exchange(Scheme(**choices), 2)
    return exchange.merge(GRADIENTS.clone(), BOTH).vector.tolist(), exchange


@pytest.mark.parametrize(
    "returned",
    [
        lambda gradients: gradients.numpy().mean(0),
        lambda gradients: gradients.flip(1).numpy().mean(0)[::-1],
        lambda gradients: gradients.mean(0).tolist(),
        lambda gradients: tuple(gradients.mean(0)),
        lambda gradients: gradients.double().mean(0),
        lambda gradients: gradients.mean(0).int(),
    ],
)
def test_a_combiner_may_return_an_array_or_a_sequence(returned: Callable[[torch.Tensor], Any]) -> None:
    one = combiner(returned)
    assert merged(rule=one)[0] == MEAN
    assert one(GRADIENTS).dtype == torch.float32


@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda gradients: gradients.mean(0, keepdim=True), "shape (1, 3), torch.float32"),
        (lambda gradients: torch.ones(4), "shape (4,), torch.float32"),
        (lambda gradients: [1.0] * 4, "list of 4: [1.0, 1.0, 1.0, 1.0]"),
        (lambda gradients: gradients.mean(), "shape (), torch.float32"),
        (lambda gradients: 1.0, "1.0"),
        (lambda gradients: None, "None"),
    ],
)
def test_a_combiner_must_return_one_number_for_each_parameter(returned: Callable[[torch.Tensor], Any], got: str) -> None:
    message = f"Mine must return one number for each parameter, [P] = [3], got {got}"
    with pytest.raises(ValueError, match=re.escape(message)):
        merged(rule=combiner(returned))
    mix = MixTailor(["median"])
    object.__setattr__(mix, "_pool", (combiner(returned),))
    with pytest.raises(ValueError, match=re.escape(message)):
        mix(GRADIENTS)


@pytest.mark.parametrize(
    "sends",
    [[True, False], (1, 0), np.array([True, False]), torch.tensor([1, 0]), torch.tensor([1.0, 0.0])],
)
def test_a_gate_may_decide_by_a_sequence_or_by_zeros_and_ones(sends: Any) -> None:
    vector, exchange = merged(gate=gate(lambda: sends), rule="sum")
    assert vector == GRADIENTS[0].tolist()
    assert exchange.ledger.messages == 1


@pytest.mark.parametrize(
    ("sends", "got"),
    [
        (torch.ones(2, 1, dtype=torch.bool), "shape (2, 1), torch.bool"),
        (torch.tensor([1, 2]), "shape (2,), torch.int64"),
        ([0.3, 0.7], "list of 2: [0.3, 0.7]"),
        ([0], "list of 1: [0]"),
        (True, "True"),
        (None, "None"),
    ],
)
def test_a_gate_must_decide_about_each_agent(sends: Any, got: str) -> None:
    message = f"Mine.decide() must return True or False for each agent, [A] = [2], got {got}"
    with pytest.raises(ValueError, match=re.escape(message)):
        merged(gate=gate(lambda: sends))


@pytest.mark.parametrize(
    "encoded",
    [
        lambda rows: Encoded(rows.numpy(), np.full(len(rows), 8)),  # type: ignore[arg-type]
        lambda rows: Encoded(rows.tolist(), [8] * len(rows)),  # type: ignore[arg-type]
        lambda rows: Encoded(rows.half(), 8),  # type: ignore[arg-type]
        lambda rows: Encoded(rows, torch.full((len(rows),), 7.5)),
        lambda rows: (rows, 8),
    ],
)
@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("feedback", [False, "classic", "ef21"])
def test_a_codec_may_return_arrays_a_pair_or_one_size(
    encoded: Callable[[torch.Tensor], Any], chain: bool, feedback: Any
) -> None:
    own = codec(encoded)
    choice = ("top_k", own) if chain else own
    settings = {"codec_kwargs": {"number": 3}} if chain else {}
    vector, exchange = merged(codec=choice, error_feedback=feedback, **settings)
    assert vector == MEAN
    assert (exchange.ledger.bytes_per_agent >= 1).all()
    if not chain:
        assert exchange.ledger.bytes_per_agent.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("encoded", "got"),
    [
        (lambda rows: rows, "Encoded(decoded, bits), got shape (2, 3), torch.float32"),
        (lambda rows: None, "Encoded(decoded, bits), got None"),
        (lambda rows: (rows, 8, 8), "Encoded(decoded, bits), got tuple of 3: "),
        (lambda rows: (rows[:, :2], 8), "decoded numbers [S, P] = [2, 3], got shape (2, 2), torch.float32"),
        (lambda rows: (rows, [8]), "bits >= 0 of each message, [S] = [2], got list of 1: [8]"),
        (lambda rows: (rows, -8), "bits >= 0 of each message, [S] = [2], got -8"),
        (lambda rows: (rows, None), "bits >= 0 of each message, [S] = [2], got None"),
    ],
)
def test_a_codec_must_return_messages_and_their_sizes(encoded: Callable[[torch.Tensor], Any], got: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"Mine must return {got}")):
        merged(codec=codec(encoded), error_feedback=False)


def test_broadcasts_by_a_codec_of_ones_own_are_checked() -> None:
    exchange = Exchange(Scheme(payload="parameters", broadcast=codec(lambda rows: (rows.numpy(), 8))), 2)
    reference = torch.zeros(3)
    assert exchange.merge(GRADIENTS.clone(), BOTH, reference=reference).vector.tolist() == MEAN
    exchange = Exchange(Scheme(payload="parameters", broadcast=codec(lambda rows: rows)), 2)
    with pytest.raises(ValueError, match=re.escape("Mine must return Encoded(decoded, bits), got shape (1, 3)")):
        exchange.merge(GRADIENTS.clone(), BOTH, reference=reference)
