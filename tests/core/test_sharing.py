"""Parameters of many agents merged, and the settings of the schemes."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import LOCAL_SCHEMES
from rl_agg.payloads import ActorMean, ActorSum, FedAvg, FedProx, make_scheme, merge

numbers = st.floats(-100, 100, allow_nan=False)


@given(data=st.data(), num_agents=st.integers(1, 6))
def test_the_merge_is_the_weighted_average(data: st.DataObject, num_agents: int) -> None:
    shapes = [(), (3,), (2, 4)]
    stacked = [data.draw(arrays(np.float64, (num_agents, *shape), elements=numbers)) for shape in shapes]
    weights = data.draw(arrays(np.float64, num_agents, elements=st.floats(0.01, 100)))
    merged = merge([torch.from_numpy(parameters) for parameters in stacked], torch.from_numpy(weights))
    for found, parameters in zip(merged, stacked, strict=True):
        np.testing.assert_allclose(found, np.average(parameters, axis=0, weights=weights), atol=1e-9)


@given(parameters=arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)), num_agents=st.integers(1, 9))
def test_equal_parameters_merge_to_themselves(parameters: np.ndarray, num_agents: int) -> None:
    stacked = torch.from_numpy(parameters).expand(num_agents, -1)
    (merged,) = merge([stacked], torch.arange(1, num_agents + 1))
    torch.testing.assert_close(merged, stacked[0], rtol=1e-5, atol=1e-6)


def test_fedavg_by_hand() -> None:
    """Equation 7 of Holen et al. (2023): 100 and 300 samples."""
    weight = torch.tensor([[[1.0, 2.0]], [[5.0, 10.0]]])
    (merged,) = merge([weight], torch.tensor([100, 300]))
    assert merged.tolist() == [[4.0, 8.0]]


def test_agents_that_count_nothing_are_not_read() -> None:
    """One whose parameters have diverged can be left out."""
    parameters = torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [3.0, 6.0]])
    (merged,) = merge([parameters], torch.tensor([1.0, 0.0, 1.0]))
    assert merged.tolist() == [2.0, 4.0]


def test_counters_are_those_of_the_agent_that_counts_most() -> None:
    counters, flags = torch.tensor([[10], [20], [30]]), torch.tensor([True, False, True])
    merged = merge([counters, flags], torch.tensor([1.0, 5.0, 2.0]))
    assert merged[0].tolist() == [20]
    assert merged[1].item() is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precision_stays_and_nothing_is_differentiated(dtype: torch.dtype) -> None:
    parameters = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    (merged,) = merge([parameters], torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert merged.dtype == dtype
    assert not merged.requires_grad


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5], [torch.nan, 1.0], [torch.inf, 1.0], [[1.0, 1.0]], 1.0])
def test_weights_that_are_none(weights: Any) -> None:
    with pytest.raises(ValueError, match=re.escape("weights must be [A], >= 0, with a positive sum, got")):
        merge([torch.ones(2, 3)], torch.tensor(weights))


def test_schemes_by_name() -> None:
    assert {"fedavg": FedAvg, "fedprox": FedProx, "actor_sum": ActorSum, "actor_mean": ActorMean} == LOCAL_SCHEMES
    assert make_scheme("fedavg", {}) == FedAvg(interval=1, local_epochs=None, moments="keep")
    assert make_scheme("fedprox", {"mu": 0.5, "interval": 3, "moments": "merge"}) == FedProx(3, None, "merge", 0.5)
    assert make_scheme("fedavg", {"local_epochs": (1, 0, 3)}).local_epochs == (1, 0, 3)  # type: ignore[attr-defined]
    assert make_scheme("actor_mean", {"same_init": False}) == ActorMean(same_init=False)
    assert make_scheme("actor_mean", {}) != make_scheme("actor_sum", {})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "fedavgg",
            {},
            "unknown scheme 'fedavgg' (did you mean 'fedavg'?); choose from actor_mean, actor_sum, fedavg, fedprox",
        ),
        ("fedavg", {"mu": 1}, "fedavg has no setting 'mu'; choose from interval, local_epochs, moments"),
        ("fedavg", {"interval": 0}, "interval must be an integer >= 1, got 0"),
        ("fedavg", {"interval": True}, "interval must be an integer >= 1, got True"),
        ("fedavg", {"interval": 1.5}, "interval must be an integer >= 1, got 1.5"),
        ("fedavg", {"moments": "kepe"}, "unknown moments 'kepe' (did you mean 'keep'?); choose from keep, merge, reset"),
        ("fedavg", {"local_epochs": 3}, "local_epochs must be one integer >= 0 for each agent, got 3"),
        ("fedavg", {"local_epochs": 2.5}, "local_epochs must be one integer >= 0 for each agent, got 2.5"),
        ("fedavg", {"local_epochs": [1, -1]}, "local_epochs must be one integer >= 0 for each agent, got [1, -1]"),
        ("fedavg", {"local_epochs": [1, 1.5]}, "local_epochs must be one integer >= 0 for each agent"),
        ("fedavg", {"local_epochs": "12"}, "local_epochs must be one integer >= 0 for each agent, got '12'"),
        ("fedprox", {"mu": -1}, "mu must be a finite number >= 0, got -1"),
        ("fedprox", {"mu": float("nan")}, "mu must be a finite number >= 0, got nan"),
        ("fedprox", {"interval": 0}, "interval must be an integer >= 1, got 0"),
        ("actor_sum", {"same_init": 1}, "same_init must be True or False, got 1"),
    ],
)
def test_settings_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_scheme(name, settings)
