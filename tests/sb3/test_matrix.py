"""Combiners inside SB3's train() against explicit backwards, agent by agent."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rl_agg import combine
from rl_agg.combiners import make_combiner
from sb3_agg import AggA2C, AggPPO
from sb3_agg.per_agent_gradients.loop import LoopBackend
from sb3_agg.per_agent_gradients.select import BACKENDS
from sb3_agg.per_agent_gradients.vmap import VmapBackend
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import (
    AGENTS,
    COMBINERS,
    SETUPS,
    STEPS,
    Extractor,
    build,
    check_every_step,
    extractor,
    gradient,
    num_steps,
)
from tests.sb3.worlds import cartpoles

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


@pytest.mark.parametrize("name", COMBINERS)
@pytest.mark.parametrize("setup", ["discrete", "stock", "one_sample", "one_sample_continuous"])
def test_every_combiner_gets_each_agents_gradient(setup: str, name: str) -> None:
    model = build(setup, aggregation=name, aggregation_kwargs=COMBINERS[name])
    combiner = make_combiner(name, COMBINERS[name])
    check_every_step(model, lambda step: combiner(step.gradients, step=step.number), num_steps(model))


@pytest.mark.filterwarnings("ignore:.*cannot be evaluated for all agents at once")
@pytest.mark.parametrize("setup", [setup for setup in SETUPS if setup not in ("discrete", "stock", "one_sample")])
def test_every_policy_gives_each_agents_gradient(setup: str) -> None:
    model = build(setup, aggregation="median")
    check_every_step(model, lambda step: combine("median", step.gradients), num_steps(model))


@pytest.mark.parametrize(
    ("kind", "setups"),
    [
        (VmapBackend, ["discrete", "continuous", "dict", "maskable", "twice", "image", "exploration", "norm", "in_place"]),
        (LoopBackend, ["recurrent", "stock", "stock_image", "stock_recurrent"]),
    ],
)
def test_the_fastest_supporting_backend_is_taken(kind: Any, setups: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for backend in BACKENDS:
        method = backend.gradients
        monkeypatch.setattr(backend, "gradients", lambda self, *args, of=method: taken.append(type(self)) or of(self, *args))
    for setup in setups:
        taken.clear()
        model = build(setup, aggregation="median", n_epochs=1, closed_form=False)
        model.learn(model.n_steps * AGENTS)
        assert set(taken) == {kind}, setup


@pytest.mark.parametrize("settings", [{}, {"batch_size": AGENTS, "n_steps": 4}])
@pytest.mark.parametrize("name", ["median", "krum"])
def test_a_layer_may_be_left_out_of_a_step(name: str, settings: dict[str, Any]) -> None:
    """What was its gradient in the step before is gone."""
    model = build("twice", aggregation=name, **settings)

    def switch(*_: Any) -> None:
        model.policy.features_extractor.on ^= True

    model.policy.optimizer.register_step_post_hook(switch)
    check_every_step(model, lambda step: combine(name, step.gradients), num_steps(model))


def test_a_policy_that_needs_a_loop_says_so_and_learns() -> None:
    """A network that counts its batches in place cannot be evaluated under vmap."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(8))

        def forward(self, features: Tensor) -> Tensor:
            return features * self.scale * (2.0 if float(features.detach().sum()) > -1e9 else 1.0)

    model = build("discrete", aggregation="median", n_epochs=1, **extractor(Extractor, last=Counting))
    with pytest.warns(UserWarning, match="ActorCriticPolicy cannot be evaluated for all agents at once, so each gradient"):
        check_every_step(model, lambda step: combine("median", step.gradients), num_steps(model))


@pytest.mark.filterwarnings("ignore:.*cannot be evaluated for all agents at once")
def test_a_network_that_mixes_samples_learns() -> None:
    """What is an agent's own gradient is then in the eye of the beholder."""
    model = build("discrete", aggregation="median", n_epochs=1, **extractor(Extractor, last=lambda: nn.BatchNorm1d(8)))
    model.learn(2 * STEPS * AGENTS)
    assert torch.isfinite(parameters(model)).all()
    assert model.policy.features_extractor.layers[1].running_mean.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"communication": "lag"}, {"minibatches": "stock"}, {"batch_size": AGENTS}])
@pytest.mark.parametrize("name", [*COMBINERS, "r_weighted"])
def test_on_cuda(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    own = {"aggregation": name, "aggregation_kwargs": COMBINERS.get(name), **settings}
    cuda, cpu = build("discrete", **own, device="cuda"), build("discrete", **own)
    cuda.learn(2 * STEPS * AGENTS).save(tmp_path / "model")
    assert torch.isfinite(parameters(cuda)).all()
    held = {} if cuda.exchange.weights_only else cuda.exchange.state_dict()["uplink"]["signals"]
    assert all(value.device.type == "cpu" for value in held.values())
    cpu.set_parameters(AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu").get_parameters())


def test_nothing_of_the_policy_is_left_changed() -> None:
    model = build("continuous", aggregation="median")
    before = {name: id(item) for name, item in model.policy.named_parameters()}
    model.learn(STEPS * AGENTS)
    assert {name: id(item) for name, item in model.policy.named_parameters()} == before
    assert list(model.policy.state_dict()) == list(build("continuous").policy.state_dict())
    assert "log_std" not in vars(model.policy)
    for module in model.policy.modules():
        assert "forward" not in vars(module)
    model.policy.predict(np.zeros((2, 3), np.float32))
    copy.deepcopy(model.policy)


def test_gradients_are_clipped_as_sb3_clips_them() -> None:
    model = build("whole", aggregation="median", n_epochs=1, max_grad_norm=0.01)
    model.learn(STEPS * AGENTS)
    assert gradient(model).norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("cls", [AggA2C, AggPPO])
def test_frozen_parameters_stay_and_cost_nothing(cls: Any) -> None:
    model = cls("MlpPolicy", cartpoles(4), aggregation="median", n_steps=8, seed=0, device="cpu")
    frozen = model.policy.mlp_extractor.policy_net[0]
    frozen.weight.requires_grad_(False)
    before = frozen.weight.clone()
    model.learn(64)
    assert torch.equal(frozen.weight, before)
    assert frozen.weight.grad is None
    trained = sum(item.numel() for item in model.policy.parameters() if item.requires_grad)
    assert model.ledger.bytes == 4 * trained * model.ledger.messages


EVERYONE = {"communication": "lag", "communication_kwargs": {"xi": 0}}
SGD = {"policy_kwargs": {"optimizer_class": torch.optim.SGD}, "learning_rate": 0.05}


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
@pytest.mark.parametrize(
    ("setup", "rule"),
    [*itertools.product(["discrete", "continuous"], ["mean", "sum", "r_weighted", "l_weighted"]), ("recurrent", "l_weighted")],
)
@pytest.mark.filterwarnings("ignore:no agent has finished an episode yet")
def test_rules_through_the_matrix_are_those_of_one_backward(setup: str, rule: str, minibatches: str) -> None:
    settings = {"aggregation": rule, "minibatches": minibatches, "max_grad_norm": 0.5, **SGD}
    if setup == "recurrent":
        settings = {**settings, "policy_kwargs": {**SGD["policy_kwargs"], "lstm_hidden_size": 8}}
    one = build(setup, **settings).learn(2 * STEPS * AGENTS)
    other = build(setup, **settings, **EVERYONE).learn(2 * STEPS * AGENTS)
    assert (parameters(one) - parameters(other)).abs().max() <= 1e-6
    assert (parameters(one) - parameters(build(setup, **settings))).norm() > 1e-2
    np.testing.assert_allclose(one.agent_weights, other.agent_weights, rtol=1e-5)
    assert one.ledger.state_dict() == other.ledger.state_dict()


@pytest.mark.parametrize("minibatches", ["stratified", "stock"])
def test_a_gate_that_lets_everyone_speak_changes_nothing(minibatches: str) -> None:
    settings = {"aggregation": "median", "minibatches": minibatches}
    one = build("discrete", **settings).learn(3 * STEPS * AGENTS)
    other = build("discrete", **settings, **EVERYONE).learn(3 * STEPS * AGENTS)
    assert torch.equal(parameters(one), parameters(other))
    assert one.ledger.state_dict() == other.ledger.state_dict()


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_lag_saves_messages_and_learns_on(aggregation: str) -> None:
    every = build("discrete", aggregation=aggregation).learn(4 * STEPS * AGENTS)
    model = build("discrete", aggregation=aggregation, communication="lag", communication_kwargs={"xi": 1.0})
    model.learn(4 * STEPS * AGENTS)
    assert 0.05 * every.ledger.messages < model.ledger.messages < 0.9 * every.ledger.messages
    assert model.ledger.bytes == 4 * 9155 * model.ledger.messages
    assert model.ledger.bytes_down == every.ledger.bytes_down
    assert model.logger.name_to_value["agg/masked_agents"] == 0
    assert torch.isfinite(parameters(model)).all()


def test_rules_that_nobody_looks_into_never_store_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """[A, P] numbers are worth it only where each agent's own gradient must be seen."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a matrix of gradients")

    monkeypatch.setattr("sb3_agg.mixin.PerAgentUpdate", refuse)
    for rule in ("mean", "sum", "samples", "r_weighted", "l_weighted", lambda signals: torch.ones(signals.num_agents)):
        model = build("discrete", aggregation=rule, n_epochs=1)
        model.learn(STEPS * AGENTS)
    for settings in ({"aggregation": "median"}, {"communication": "lag"}, {"attack": {"kind": "nan", "agents": [0]}}):
        with pytest.raises(AssertionError, match="a matrix of gradients"):
            build("discrete", n_epochs=1, **settings).learn(STEPS * AGENTS)
