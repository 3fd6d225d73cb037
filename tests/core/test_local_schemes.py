"""Averages of parameters, and names for a rule, a payload and a schedule."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rl_agg import LOCAL_SCHEMES, Payload, Schedule
from rl_agg.payloads import GradientsWithOwn, Parameters, merge
from rl_agg.schedules import EveryStep, Interval
from rl_agg.scheme import make_scheme

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


@pytest.mark.parametrize(
    ("name", "rule", "payload", "schedule"),
    [
        ("fedavg", "samples", Parameters(), EveryStep()),
        ("fedprox", "samples", Parameters(mu=0.01), EveryStep()),
        ("a_pps", "mean", Parameters(), EveryStep()),
        ("rs_pps", "reward_shares", Parameters(), EveryStep()),
        ("pp_pps", "reward_shares", Parameters(layers=("head",)), EveryStep()),
        ("actor_sum", "sum", GradientsWithOwn(), EveryStep()),
        ("actor_mean", "mean", GradientsWithOwn(), EveryStep()),
    ],
)
def test_a_name_is_a_rule_a_payload_and_a_schedule(name: str, rule: str, payload: Payload, schedule: Schedule) -> None:
    scheme = make_scheme(name)
    assert (scheme.described["rule"], scheme.payload, scheme.schedule) == (rule, payload, schedule)
    assert make_scheme(LOCAL_SCHEMES[name]()) == scheme
    assert scheme.payload.local


def test_every_name_is_tested() -> None:
    names = {"fedavg", "fedprox", "a_pps", "rs_pps", "pp_pps", "actor_sum", "actor_mean"}
    assert set(LOCAL_SCHEMES) == names


def test_settings_reach_the_payload_and_the_schedule() -> None:
    scheme = make_scheme("fedprox", {"mu": 0.5, "interval": 3, "moments": "merge", "local_epochs": (1, 0, 3)})
    assert scheme.payload == Parameters(local_epochs=(1, 0, 3), moments="merge", mu=0.5)
    assert scheme.schedule == Interval(3)
    assert make_scheme("pp_pps", {"layers": ("policy", "value")}).payload == Parameters(layers=("policy", "value"))
    assert make_scheme("actor_mean", {"same_init": False}).payload == GradientsWithOwn(same_init=False)


def test_the_same_may_be_said_twice() -> None:
    once = make_scheme("fedprox", {"mu": 0.5, "interval": 8})
    assert make_scheme("fedprox", {"mu": 0.5, "interval": 8}, payload="parameters", interval=Interval(8)) == once
    assert make_scheme("fedprox", {"mu": 0.5}, payload=Parameters(mu=0.5), interval=8) == once


def test_the_other_arguments_stay_free() -> None:
    gate = {"communication": "random", "communication_kwargs": {"expected_messages": 2}}
    scheme = make_scheme("fedavg", **gate, compression="float16", payload="parameters", interval=4)
    assert scheme.described == {
        "gate": "random",
        "codec": "float16",
        "rule": "samples",
        "payload": "parameters",
        "schedule": "interval",
        "broadcast": "identity",
    }
    assert make_scheme("fedavg", {"interval": 4}, interval=4) == make_scheme("fedavg", interval=4)


def test_layers_are_chosen_by_the_names_of_modules() -> None:
    names = ["policy.0.weight", "policy.0.bias", "policy.10.bias", "value.weight"]
    assert Parameters().selected(names) == names
    assert Parameters(layers=("policy.0",)).selected(names) == names[:2]
    assert Parameters(layers=("value.weight", "policy")).selected(names) == names
    with pytest.raises(
        ValueError, match=re.escape("unknown layer 'polciy' (did you mean 'policy'?); choose from policy, value")
    ):
        Parameters(layers=("polciy",)).selected(names)
