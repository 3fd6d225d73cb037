"""What agents report."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import Signals


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        (1.0, 2.0),
        np.array([1.0, 2.0]),
        np.array([1, 2], dtype=np.int32),
        np.frombuffer(np.array([1.0, 2.0]).tobytes()),  # not writable, like what Ray hands out
        torch.tensor([1, 2]),
        [torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)],
    ],
    ids=["list", "tuple", "array", "integers", "read-only array", "integer tensor", "losses with a graph"],
)
def test_sequences_and_arrays_become_float64(values: Any) -> None:
    returns = Signals(returns=values).returns
    assert returns is not None
    assert returns.dtype == torch.float64
    assert returns.tolist() == [1.0, 2.0]


def test_an_array_is_copied_so_that_its_owner_may_reuse_it() -> None:
    buffer = np.array([1.0, 2.0])
    signals = Signals(returns=buffer, present=np.array([True, False]))
    buffer[:] = 0.0
    assert signals.returns is not None
    assert signals.returns.tolist() == [1.0, 2.0]
    assert signals.present is not None
    assert signals.present.tolist() == [True, False]


def test_floating_tensors_keep_their_dtype_and_lose_their_graph() -> None:
    losses = torch.ones(3, dtype=torch.float32, requires_grad=True)
    kept = Signals(losses=losses).losses
    assert kept is not None
    assert kept.dtype == torch.float32
    assert not kept.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "signals are empty; give at least one of returns, losses, num_samples, explained_variance, agreement"),
        ({"returns": [1.0, 2.0], "losses": [1.0]}, "same A >= 1, got shapes {'returns': (2,), 'losses': (1,)}"),
        ({"returns": [[1.0, 2.0]]}, "got shapes {'returns': (1, 2)}"),
        ({"returns": 1.0}, "got shapes {'returns': ()}"),
        ({"returns": []}, "got shapes {'returns': (0,)}"),
        ({"returns": [1.0, 2.0], "present": [True]}, "'present': (1,)"),
        ({"num_samples": [4, -1]}, "num_samples must not be negative, got [4.0, -1.0]"),
    ],
)
def test_odd_shapes_and_counts_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Signals(**fields)


def test_masked_are_the_absent_and_the_infinite() -> None:
    inf, nan = float("inf"), float("nan")
    signals = Signals(returns=[1, inf, nan, 1], losses=[1, 1, 1, -inf], present=[False, True, True, True])
    assert signals.masked().tolist() == [True, True, False, True]
    assert signals.num_agents == 4


@pytest.mark.parametrize(
    ("fields", "complete"),
    [
        ({"returns": [1.0, 2.0]}, True),
        ({"returns": [1.0, 2.0], "present": [True, True]}, True),
        ({"returns": [1.0, float("nan")]}, False),
        ({"returns": [1.0, 2.0], "losses": [1.0, float("inf")]}, False),
        ({"present": [True, False]}, False),
    ],
)
def test_complete_means_nothing_masked_or_missing(fields: dict[str, Any], complete: bool) -> None:
    assert Signals(**fields).complete() is complete


def test_gaps_are_filled_by_the_mean_of_the_known() -> None:
    signals = Signals(returns=[1.0, float("nan"), 3.0], losses=[float("nan")] * 3).without_gaps()
    assert signals.returns is not None
    assert signals.losses is not None
    assert signals.returns.tolist() == [1.0, 2.0, 3.0]
    assert signals.losses.tolist() == [0.0, 0.0, 0.0]
