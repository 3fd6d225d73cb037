"""Attackers, broken agents and idle ones where each agent's gradient is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_agg import Combiner, combine
from rl_agg.attacks import Attack
from sb3_agg import AggPPO
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import AGENTS, STEPS, build, check_every_step, gradient, num_steps
from tests.sb3.worlds import walks

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


@pytest.mark.parametrize("name", ["median", "krum"])
@pytest.mark.parametrize("kind", ["sign_flip", "scale", "random"])
def test_attackers_send_what_they_send(kind: str, name: str) -> None:
    attack = Attack(kind, [1], scale=20.0, seed=2)
    model = build("discrete", aggregation=name, attack=attack, n_epochs=1)
    check_every_step(model, lambda step: combine(name, attack(step.gradients, step.number)), num_steps(model))
    assert model.ledger.messages_per_agent.tolist() == [8] * AGENTS  # lies are messages too


def test_an_attack_may_be_given_by_its_settings() -> None:
    settings = {"kind": "sign_flip", "agents": [0, 3], "scale": 4.0}
    learned = [
        parameters(build("discrete", aggregation="median", attack=attack, n_epochs=1).learn(STEPS * AGENTS))
        for attack in (settings, Attack(**settings))
    ]
    assert torch.equal(*learned)


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize("aggregation", ["mean", "l_weighted", "median", "krum"])
def test_agents_that_send_no_number_are_masked_and_have_not_sent(aggregation: str, minibatches: str) -> None:
    settings = {"aggregation": aggregation, "minibatches": minibatches, "attack": {"kind": "nan", "agents": [2]}}
    model = build("discrete", **settings).learn(STEPS * AGENTS)
    assert model.logger.name_to_value["agg/masked_agents"] == 1
    assert model.logger.name_to_value["agg/skipped_updates"] == 0
    assert torch.isfinite(parameters(model)).all()
    assert model.ledger.messages_per_agent[2] == 0
    assert (np.delete(model.ledger.messages_per_agent, 2) > 0).all()
    if aggregation == "mean" and minibatches == "stratified":
        np.testing.assert_allclose(model.agent_weights, [0.25, 0.25, 0, 0.25, 0.25])


def test_when_nobody_sends_a_number_nothing_is_stepped_with() -> None:
    model = build("discrete", aggregation="median", attack={"kind": "nan", "agents": range(AGENTS)})
    before = parameters(model)
    model.learn(STEPS * AGENTS)
    assert torch.equal(parameters(model), before)
    assert model.logger.name_to_value["agg/skipped_updates"] == 8
    assert model.ledger.messages == 0


def test_a_combiner_that_fails_costs_a_step_not_the_model() -> None:
    """Finite gradients in, no number out."""

    class Overflow(Combiner):
        def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
            return gradients.mean(0) * (torch.inf if step == 3 else 1.0)

    model = build("discrete", aggregation=Overflow()).learn(STEPS * AGENTS)
    assert torch.isfinite(parameters(model)).all()
    assert model.logger.name_to_value["agg/skipped_updates"] == 1


def test_median_bears_what_breaks_the_mean() -> None:
    attack = {"kind": "sign_flip", "agents": [0, 1], "scale": 1e6}
    found = {}
    for aggregation in ("mean", "median"):
        model, honest = build("whole", aggregation=aggregation, attack=attack, n_epochs=1), []
        check_every_step_of(model, honest)
        found[aggregation] = torch.cosine_similarity(gradient(model), honest[0].mean(0), dim=0).item()
    assert found["mean"] < -0.9
    assert found["median"] > 0.2


def check_every_step_of(model: Any, rows: list[Tensor]) -> None:
    """Learn for one step and keep what the agents would have sent."""
    merge = model.exchange.merge
    model.exchange.merge = lambda gradients, *args, **kwargs: (
        rows.append(gradients.matrix(by_parameter=False).clone()) or merge(gradients, *args, **kwargs)
    )
    model.learn(STEPS * AGENTS)
    assert len(rows) == 1


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
@pytest.mark.parametrize("aggregation", ["median", "trimmed_mean"])
@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
def test_an_agent_with_a_broken_rollout_is_left_out(aggregation: str, minibatches: str) -> None:
    env = walks({"length": 4}, {"length": 4}, {"length": 4, "broken": np.nan, "broken_steps": range(99)}, {"length": 4})
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", "minibatches": minibatches}
    model = AggPPO("MlpPolicy", env, aggregation=aggregation, **settings)
    with pytest.warns(UserWarning, match="agent 2 had a NaN or infinite observation, reward"):
        model.learn(64)
    assert model.ledger.messages_per_agent[2] == 0
    assert model.logger.name_to_value["agg/masked_agents"] == 1
    assert torch.isfinite(parameters(model)).all()


def test_idle_agents_are_not_masked() -> None:
    """Of a minibatch in SB3's own order, some agents have no sample; nothing is wrong with them."""
    model = build("stock", aggregation="krum", batch_size=6).learn(STEPS * AGENTS)
    assert model.logger.name_to_value["agg/masked_agents"] == 0
    steps = 2 * -(-STEPS * AGENTS // 6)
    assert (model.ledger.messages_per_agent < steps).all()
    assert (model.ledger.messages_per_agent > steps / 3).all()
