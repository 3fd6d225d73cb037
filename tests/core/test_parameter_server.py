"""From the agents' gradients to the one that is stepped with."""

from __future__ import annotations

import math
import pickle
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import COMBINERS, RULES, Combiner, Signals, Weighting, weights
from rl_agg.attacks import Attack
from rl_agg.combiners import make_combiner
from rl_agg.exchange import ParameterServer
from rl_agg.gates import LazyGate
from rl_agg.scheme import make_aggregation
from tests.core.gradients import normal

AGENTS, PARAMETERS = 6, 20
COMBINED = sorted(COMBINERS)


def told(present: list[bool] | None = None) -> Signals:
    values = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    return Signals(returns=values, losses=values + 1, num_samples=values, present=present or [True] * AGENTS)


def server(name: str, kwargs: dict[str, Any] | None = None, **settings: Any) -> ParameterServer:
    aggregation = make_aggregation(name, kwargs)
    assert isinstance(aggregation, Weighting | Combiner)
    return ParameterServer(aggregation, **settings)


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_weighs(name: str) -> None:
    gradients = normal(AGENTS, PARAMETERS)
    merged = server(name).merge(gradients, told())
    expected = weights(name, told())
    assert merged.weights is not None
    torch.testing.assert_close(merged.weights.double(), expected.double())
    by_hand = sum(w * g for w, g in zip(expected.tolist(), gradients.numpy(), strict=True))
    np.testing.assert_allclose(merged.gradient, by_hand, rtol=1e-5, atol=1e-6)
    assert merged.sends.all()
    assert merged.present.all()


@pytest.mark.parametrize("name", COMBINED)
def test_a_combiner_combines_and_knows_the_step(name: str) -> None:
    one, combiner = server(name), make_combiner(name, {})
    for step in range(5):
        gradients = normal(AGENTS, PARAMETERS, seed=step)
        merged = one.merge(gradients, told())
        assert torch.equal(merged.gradient, combiner(gradients, step=step))
        assert merged.weights is None


@pytest.mark.parametrize("gate", [None, {}])
@pytest.mark.parametrize("name", ["mean", "r_weighted", *COMBINED])
def test_what_is_not_finite_is_masked(name: str, gate: Any) -> None:
    """Agent 1 sends NaN, agent 2 infinity; agent 4 is absent."""
    gradients = normal(AGENTS, PARAMETERS)
    gradients[1, 3], gradients[2, 0], gradients[4] = math.nan, -math.inf, math.nan
    kept = [0, 3, 5]
    present = [True, True, True, True, False, True]
    settings = {} if gate is None else {"gate": LazyGate(AGENTS)}
    merged = server(name, **settings).merge(gradients, told(present))
    assert merged.present.nonzero().flatten().tolist() == kept
    assert torch.equal(merged.sends, merged.present)
    if name in COMBINERS:
        expected = make_combiner(name, {})(gradients, present=merged.present)
    else:
        mask = torch.tensor([agent in kept for agent in range(AGENTS)])
        expected = weights(name, told().of(mask)) @ gradients[mask]
        assert merged.weights is not None
        assert (merged.weights[~mask] == 0).all()
    torch.testing.assert_close(merged.gradient, expected)


@pytest.mark.parametrize("name", ["mean", "krum"])
def test_with_nobody_left_there_is_no_gradient_and_the_gate_notes_no_step(name: str) -> None:
    gate = LazyGate(AGENTS, xi=0.5)
    one = server(name, gate=gate)
    one.merge(normal(AGENTS, PARAMETERS), told())
    noted = gate.state_dict()
    merged = one.merge(torch.full((AGENTS, PARAMETERS), torch.nan), told())
    assert (merged.gradient == 0).all()
    assert not merged.present.any()
    assert not merged.sends.any()
    assert torch.equal(gate.state_dict()["steps"], noted["steps"])


# Attack -------------------------------------------------------------------------------------------------------------------


def test_an_attack_comes_before_everything_else() -> None:
    gradients = normal(AGENTS, PARAMETERS)
    attack = Attack("random", [0, 5], scale=3.0)
    one = server("median", attack=attack)
    for step in range(3):
        merged = one.merge(gradients, told())
        assert torch.equal(merged.gradient, make_combiner("median", {})(attack(gradients, step)))


def test_nan_senders_are_masked_and_have_not_sent() -> None:
    merged = server("mean", attack=Attack("nan", [2])).merge(normal(AGENTS, PARAMETERS), told())
    assert merged.present.tolist() == [True, True, False, True, True, True]
    assert merged.sends.tolist() == merged.present.tolist()
    assert merged.weights is not None
    np.testing.assert_allclose(merged.weights, [0.2, 0.2, 0, 0.2, 0.2, 0.2], rtol=1e-6)


# Gate ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "median", "sum", "r_weighted"])
def test_those_who_are_silent_count_with_what_they_said_last(name: str) -> None:
    """Against a second gate that is driven by hand."""
    one, gate = server(name, gate=LazyGate(AGENTS, xi=0.5, window=2)), LazyGate(AGENTS, xi=0.5, window=2)
    aggregation, silent, drift = make_aggregation(name), 0, torch.zeros(AGENTS, PARAMETERS)
    for step in range(30):
        drift = drift + 0.3 * normal(AGENTS, PARAMETERS, seed=step)
        sends, held = gate(drift, torch.ones(AGENTS, dtype=torch.bool))
        merged = one.merge(drift, told())
        assert torch.equal(merged.sends, sends)
        if isinstance(aggregation, Combiner):
            expected, total = aggregation(held), 1.0
        else:
            assert isinstance(aggregation, Weighting)
            expected, total = aggregation(told()) @ held, float(aggregation(told()).sum())
        torch.testing.assert_close(merged.gradient, expected)
        gate.note_step(expected / total)  # on the scale of a mean
        silent += int((~sends).sum())
    assert silent > 0


@pytest.mark.parametrize("name", ["sum", "r_weighted", *COMBINED])
def test_without_xi_the_gate_changes_nothing(name: str) -> None:
    plain, gated = server(name), server(name, gate=LazyGate(AGENTS, xi=0))
    for step in range(5):
        gradients = normal(AGENTS, PARAMETERS, seed=step)
        one, other = plain.merge(gradients.clone(), told()), gated.merge(gradients.clone(), told())
        assert torch.equal(one.gradient, other.gradient)
        assert other.sends.all()


# Idle ---------------------------------------------------------------------------------------------------------------------


def test_a_combiner_does_not_see_the_idle_nor_count_them_as_faulty() -> None:
    """Two are idle and one lies: trimming must still find the liar."""
    gradients = normal(AGENTS, PARAMETERS)
    gradients[3] = 1e6
    idle = torch.tensor([True, True, False, False, False, False])
    merged = server("trimmed_mean").merge(gradients, told(), idle=idle)
    expected = make_combiner("trimmed_mean", {"num_byzantine": 1})(gradients[2:])
    assert torch.equal(merged.gradient, expected)
    assert merged.gradient.abs().max() < 10
    assert merged.present.all()
    assert merged.sends.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("gate", [None, {"xi": 0}])
def test_a_rule_weighs_the_idle_but_adds_nothing_for_them(gate: Any) -> None:
    idle = torch.tensor([True, False, False, False, False, False])
    settings = {} if gate is None else {"gate": LazyGate(AGENTS, **gate)}
    one = server("mean", **settings)
    one.merge(normal(AGENTS, PARAMETERS, seed=1), told())
    gradients = normal(AGENTS, PARAMETERS)
    merged = one.merge(gradients, told(), idle=idle)
    torch.testing.assert_close(merged.gradient, gradients[1:].sum(0) / AGENTS)
    assert torch.equal(merged.sends, ~idle)


# State --------------------------------------------------------------------------------------------------------------------


TORCHJD = pytest.mark.skipif(find_spec("torchjd") is None, reason="TorchJD is not installed: pip install 'rl-agg[torchjd]'")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mixtailor", {}),
        ("mean", {}),
        pytest.param("torchjd:GradVac", {}, marks=TORCHJD),
        pytest.param("mixtailor", {"combiners": ["median", "torchjd:GradVac"]}, marks=TORCHJD),
    ],
)
def test_a_server_goes_on_where_it_was(name: str, kwargs: dict[str, Any]) -> None:
    def build() -> ParameterServer:
        return server(name, kwargs, gate=LazyGate(AGENTS, xi=0.3), attack=Attack("random", [0]))

    def merge(one: ParameterServer, steps: range) -> list[torch.Tensor]:
        return [one.merge(normal(AGENTS, PARAMETERS, seed=step // 2), told()).gradient for step in steps]

    uninterrupted = merge(build(), range(12))
    first, resumed = build(), build()
    merge(first, range(6))
    resumed.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    for one, other in zip(merge(resumed, range(6, 12)), uninterrupted[6:], strict=True):
        assert torch.equal(one, other)


@TORCHJD
def test_what_an_aggregator_remembers_counts() -> None:
    """Or the test above could not fail for it."""
    first, fresh = server("torchjd:GradVac"), server("torchjd:GradVac")
    for step in range(3):
        first.merge(normal(AGENTS, PARAMETERS, seed=step), told())
    fresh.load_state_dict({"num_steps": 3, "gate": None})
    later = normal(AGENTS, PARAMETERS, seed=9)
    assert not torch.equal(first.merge(later.clone(), told()).gradient, fresh.merge(later.clone(), told()).gradient)


def test_a_server_with_a_gate_goes_on_from_one_without() -> None:
    without, gated = server("median"), server("median", gate=LazyGate(AGENTS))
    without.merge(normal(AGENTS, PARAMETERS), told())
    gated.load_state_dict(without.state_dict())
    assert gated.merge(normal(AGENTS, PARAMETERS), told()).sends.all()
    without.load_state_dict(gated.state_dict())
    assert without.state_dict() == {"num_steps": 2, "signals": {}, "gate": None, "combiner": {}}


def test_a_rule_weighs_the_silent_by_the_signals_that_came_with_what_is_held() -> None:
    gated = server("l_weighted", gate=LazyGate(2, xi=1e9, window=1))
    gradients = normal(2, PARAMETERS)
    first = gated.merge(gradients.clone(), Signals(losses=torch.tensor([1.0, 3.0])))
    assert first.sends.tolist() == [True, True]
    later = gated.merge(gradients.clone(), Signals(losses=torch.tensor([9.0, 1.0])))
    assert later.sends.tolist() == [False, False]
    torch.testing.assert_close(later.weights, first.weights, rtol=0, atol=0)
    again = server("l_weighted", gate=LazyGate(2, xi=1e9, window=1))
    again.load_state_dict(gated.state_dict())
    restored = again.merge(gradients.clone(), Signals(losses=torch.tensor([9.0, 1.0])))
    torch.testing.assert_close(restored.weights, first.weights, rtol=0, atol=0)
