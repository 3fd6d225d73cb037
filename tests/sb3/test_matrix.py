"""Combiners inside SB3's train() against explicit backwards, agent by agent; gates, attacks, files and the ledger."""

from __future__ import annotations

import copy
import itertools
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from worlds import cartpoles, walks

from rl_agg import Combiner, combine
from rl_agg.attacks import Attack
from rl_agg.combining import Median, make_combiner
from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO
from sb3_agg.agent_gradients import LoopedWay, StackedWay
from sb3_agg.linear_gradients import LinearWay

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")

AGENTS, STEPS = 5, 16  # krum bears one faulty agent among five
COMBINERS: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed_mean": {"num_byzantine": 2},
    "krum": {"num_selected": 2},
    "geometric_median": {"num_iterations": 3},
    "mixtailor": {"combiners": ("median", "krum"), "seed": 3},
    "torchjd:Mean": {},
}


def parameters(model: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def gradient(model: Any) -> Tensor:
    grads = [torch.zeros_like(item) if item.grad is None else item.grad for item in model.policy.parameters()]
    return torch.cat([grad.flatten() for grad in grads])


# Policies and worlds -------------------------------------------------------------------------------------------------------


class Blink(gym.Env[Any, int]):
    """Ten steps of noise; what is observed is up to the subclass."""

    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.clock = 0
        return self.observe(), {}

    def step(self, action: int) -> Any:
        self.clock += 1
        return self.observe(), float(action) + self.np_random.normal(), self.clock == 10, False, {}

    def observe(self) -> Any:
        raise NotImplementedError


class BlinkDict(Blink):
    observation_space = spaces.Dict({"a": spaces.Box(-9, 9, (3,)), "b": spaces.Box(-9, 9, (2,)), "c": spaces.Discrete(4)})

    def observe(self) -> Any:
        vector = self.np_random.normal(size=5).astype(np.float32)
        return {"a": vector[:3], "b": vector[3:], "c": int(self.np_random.integers(4))}


class BlinkImage(Blink):
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)

    def observe(self) -> Any:
        return self.np_random.integers(0, 256, (1, 36, 36), dtype=np.uint8)


class Extractor(BaseFeaturesExtractor):
    """A layer of the user's, and what follows it."""

    def __init__(self, space: spaces.Box, last: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__(space, 8)
        self.layers = nn.Sequential(nn.Linear(space.shape[0], 8), last())

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(observations)
        return features


class Twice(Extractor):
    """Uses its layer twice, and another one now and then."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space)
        self.other, self.on = nn.Linear(space.shape[0], 8), True

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(observations) + torch.tanh(self.layers(observations**2))
        return features + self.other(observations) if self.on else features


class Around(Extractor):
    """Reaches around its layer for the weight."""

    def forward(self, observations: Tensor) -> Tensor:
        layer = self.layers[0]
        return nn.functional.linear(observations, layer.weight * 2, layer.bias)


class Folded(Extractor):
    """Shows its layer twice as many rows."""

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(torch.cat([observations, -observations])).chunk(2)[0]


def extractor(kind: type[Extractor], **settings: Any) -> dict[str, Any]:
    return {"policy_kwargs": {"features_extractor_class": kind, "features_extractor_kwargs": settings}}


def masked_env() -> gym.Env[Any, Any]:
    return InvalidActionEnvDiscrete(dim=6, n_invalid_actions=3)


SMALL_CNN = {"policy_kwargs": {"features_extractor_kwargs": {"features_dim": 8}}}
SETUPS: dict[str, tuple[Any, str, Any, dict[str, Any]]] = {
    "discrete": (AggPPO, "MlpPolicy", "CartPole-v1", {}),
    "continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"ent_coef": 0.01}),
    "dict": (AggPPO, "MultiInputPolicy", BlinkDict, {}),
    "maskable": (AggMaskablePPO, "MlpPolicy", masked_env, {}),
    "recurrent": (AggRecurrentPPO, "MlpLstmPolicy", "CartPole-v1", {"policy_kwargs": {"lstm_hidden_size": 8}}),
    "image": (AggPPO, "CnnPolicy", BlinkImage, SMALL_CNN),
    "exploration": (AggPPO, "MlpPolicy", "Pendulum-v1", {"use_sde": True, "ent_coef": 0.01}),
    "separate": (
        AggPPO,
        "MlpPolicy",
        "CartPole-v1",
        {"policy_kwargs": {"share_features_extractor": False, "net_arch": [16], "features_extractor_class": Extractor}},
    ),
    "norm": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Extractor, last=lambda: nn.LayerNorm(8))),
    "in_place": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Extractor, last=lambda: nn.ReLU(inplace=True))),
    "twice": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Twice)),
    "around": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Around)),
    "folded": (AggPPO, "MlpPolicy", "CartPole-v1", extractor(Folded)),
    "one_sample": (AggPPO, "MlpPolicy", "CartPole-v1", {"batch_size": AGENTS, "n_steps": 4}),
    "one_sample_continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"batch_size": AGENTS, "n_steps": 4, "ent_coef": 0.01}),
    "whole": (AggPPO, "MlpPolicy", "CartPole-v1", {"batch_size": None}),
    "whole_recurrent": (
        AggRecurrentPPO,
        "MlpLstmPolicy",
        "CartPole-v1",
        {"batch_size": None, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
    "stock": (AggPPO, "MlpPolicy", "CartPole-v1", {"minibatches": "stock", "batch_size": 12}),
    "stock_continuous": (AggPPO, "MlpPolicy", "Pendulum-v1", {"minibatches": "stock", "batch_size": 12, "ent_coef": 0.01}),
    "stock_image": (AggPPO, "CnnPolicy", BlinkImage, {"minibatches": "stock", "batch_size": 12, **SMALL_CNN}),
    "stock_recurrent": (
        AggRecurrentPPO,
        "MlpLstmPolicy",
        "CartPole-v1",
        {"minibatches": "stock", "batch_size": 20, "policy_kwargs": {"lstm_hidden_size": 8}},
    ),
}


def build(setup: str, **settings: Any) -> Any:
    cls, policy, env, own = SETUPS[setup]
    kwargs = {"n_steps": STEPS, "batch_size": 20, "n_epochs": 2, "max_grad_norm": 1e9, "seed": 1, "device": "cpu"}
    return cls(policy, make_vec_env(env, AGENTS, seed=1), **{**kwargs, **own, **settings})


# Each agent's gradient by itself -------------------------------------------------------------------------------------------


def evaluate(model: Any, samples: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values, log-probabilities and entropies of some rows, by the policy's own method."""
    method, policy = type(model.policy).evaluate_actions, model.policy
    actions = samples.actions.long().flatten() if isinstance(model.action_space, spaces.Discrete) else samples.actions
    if isinstance(model, AggRecurrentPPO):  # sequences cannot be taken apart
        found = method(policy, samples.observations, actions, samples.lstm_states, samples.episode_starts)
        return found[0].flatten()[rows], found[1][rows], found[2][rows]
    if isinstance(samples.observations, dict):
        observations: Any = {key: value[rows] for key, value in samples.observations.items()}
    else:
        observations = samples.observations[rows]
    masks = {"action_masks": samples.action_masks[rows]} if isinstance(model, AggMaskablePPO) else {}
    values, log_prob, entropy = method(policy, observations, actions[rows], **masks)
    return values.flatten(), log_prob, entropy


def own_gradient(model: Any, samples: Any, rows: Tensor) -> Tensor:
    """Of PPO's loss as Schulman et al. print it, with SB3's coefficients, averaged over some rows."""
    values, log_prob, entropy = evaluate(model, samples, rows)
    ratio, advantages = (log_prob - samples.old_log_prob[rows]).exp(), samples.advantages[rows]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    losses = -surrogate - model.ent_coef * entropy + 0.5 * (samples.returns[rows] - values) ** 2
    weights = list(type(model.policy).parameters(model.policy))
    grads = torch.autograd.grad(losses.mean(), weights, allow_unused=True)
    return torch.cat([torch.zeros(w.numel()) if g is None else g.flatten() for w, g in zip(weights, grads, strict=True)])


class Owners:
    """Whose sample is whose, by what was observed and returned; not by any index."""

    def __init__(self, model: Any) -> None:
        buffer = model.rollout_buffer
        self.of = {key: index // buffer.buffer_size for index, key in enumerate(self.keys(buffer.log_probs, buffer.returns))}
        assert len(self.of) == buffer.n_envs * buffer.buffer_size

    @staticmethod
    def keys(*arrays: Any) -> list[tuple[float, ...]]:
        return list(zip(*[np.asarray(array).ravel().tolist() for array in arrays], strict=True))

    def __call__(self, samples: Any) -> Tensor:
        """-1 for the padding of sequences."""
        keys = self.keys(samples.old_log_prob, samples.returns)
        mask = getattr(samples, "mask", torch.ones(len(keys))) > 0
        return torch.tensor([self.of[key] if real else -1 for key, real in zip(keys, mask, strict=True)])


def check_every_step(model: Any, expected: Callable[[Tensor, Tensor, int], Tensor], num_steps: int) -> None:
    """Learn for two rollouts and compare what is stepped with.

    :param expected: Rows of the agents that have samples, who they are, and the step, to the merged gradient.
    """
    updates, found, merged = [], [], []
    make_update = model._make_update
    model._make_update = lambda *args: updates.append(make_update(*args)) or updates[-1]

    def before(*_: Any) -> None:
        samples = updates[-1].minibatches.samples
        owners = Owners(model)(samples)
        agents = owners[owners >= 0].unique()
        rows = torch.stack([own_gradient(model, samples, (owners == agent).nonzero().flatten()) for agent in agents])
        found.append(expected(rows, agents, len(found)))

    def after(*_: Any) -> None:
        merged.append(gradient(model))

    model.policy.optimizer.register_step_pre_hook(before)
    model.policy.optimizer.register_step_post_hook(after)
    model.learn(2 * model.n_steps * AGENTS)
    assert len(found) == len(merged) == num_steps
    for one, other in zip(merged, found, strict=True):
        assert ((one - other).norm() / other.norm()).item() <= 1e-5


def num_steps(model: Any) -> int:
    size = model.n_steps * AGENTS if model.batch_size is None else model.batch_size
    return 2 * model.n_epochs * -(-model.n_steps * AGENTS // size)


@pytest.mark.parametrize("name", COMBINERS)
@pytest.mark.parametrize("setup", ["discrete", "stock", "one_sample", "one_sample_continuous"])
def test_every_combiner_gets_each_agents_gradient(setup: str, name: str) -> None:
    model = build(setup, aggregation=name, aggregation_kwargs=COMBINERS[name])
    combiner = make_combiner(name, COMBINERS[name])
    check_every_step(model, lambda rows, _, step: combiner(rows, step=step), num_steps(model))


@pytest.mark.filterwarnings("ignore:.*cannot be evaluated for all agents at once")
@pytest.mark.parametrize("setup", [setup for setup in SETUPS if setup not in ("discrete", "stock", "one_sample")])
def test_every_policy_gives_each_agents_gradient(setup: str) -> None:
    model = build(setup, aggregation="median")
    check_every_step(model, lambda rows, *_: combine("median", rows), num_steps(model))


@pytest.mark.parametrize(
    ("kind", "setups"),
    [
        (
            LinearWay,
            [
                "discrete",
                "continuous",
                "dict",
                "maskable",
                "separate",
                "twice",
                "one_sample",
                "whole",
                "stock",
                "stock_continuous",
            ],
        ),
        (StackedWay, ["image", "exploration", "norm", "in_place", "around", "folded"]),
        (LoopedWay, ["recurrent", "stock_image", "stock_recurrent"]),
    ],
)
def test_the_fastest_way_that_fits_is_taken(kind: Any, setups: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for way in (LinearWay, StackedWay, LoopedWay):
        method = way.gradients
        monkeypatch.setattr(way, "gradients", lambda self, *args, of=method: taken.append(type(self)) or of(self, *args))
    for setup in setups:
        taken.clear()
        model = build(setup, aggregation="median", n_epochs=1)
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
    check_every_step(model, lambda rows, *_: combine(name, rows), num_steps(model))


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
        check_every_step(model, lambda rows, *_: combine("median", rows), num_steps(model))


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


# The same by another path --------------------------------------------------------------------------------------------------

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

    def refuse(*_: Any) -> None:
        raise AssertionError("a matrix of gradients")

    monkeypatch.setattr("sb3_agg.aggregation.MatrixUpdate", refuse)
    for rule in ("mean", "sum", "samples", "r_weighted", "l_weighted", lambda signals: torch.ones(signals.num_agents)):
        model = build("discrete", aggregation=rule, n_epochs=1)
        model.learn(STEPS * AGENTS)
        assert model._server is None
    for settings in ({"aggregation": "median"}, {"communication": "lag"}, {"attack": {"kind": "nan", "agents": [0]}}):
        with pytest.raises(AssertionError, match="a matrix of gradients"):
            build("discrete", n_epochs=1, **settings).learn(STEPS * AGENTS)


# Attackers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["median", "krum"])
@pytest.mark.parametrize("kind", ["sign_flip", "scale", "random"])
def test_attackers_send_what_they_send(kind: str, name: str) -> None:
    attack = Attack(kind, [1], scale=20.0, seed=2)
    model = build("discrete", aggregation=name, attack=attack, n_epochs=1)
    check_every_step(model, lambda rows, _, step: combine(name, attack(rows, step)), num_steps(model))
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
    merge = model._server.merge
    model._server.merge = lambda gradients, *args, **kwargs: (
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
    with pytest.warns(UserWarning, match="agent 2 had a NaN or infinite reward"):
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


# Files ---------------------------------------------------------------------------------------------------------------------

RESUMED: dict[str, dict[str, Any]] = {
    "mixtailor": {"aggregation": "mixtailor", "attack": {"kind": "random", "agents": [1], "scale": 2.0}},
    "lag": {"aggregation": "median", "communication": "lag", "communication_kwargs": {"xi": 0.5}},
    "lag_mean": {"aggregation": "r_weighted", "communication": "lag", "communication_kwargs": {"xi": 0.5, "window": 4}},
    "torchjd": {"aggregation": "torchjd:TrimmedMean", "aggregation_kwargs": {"trim_number": 1}},
}


class SaveOnce(BaseCallback):
    """Keep file, worlds and random numbers of the moment between two rollouts."""

    def __init__(self, path: Path, after: int) -> None:
        super().__init__()
        self.path, self.after = path, after

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.after:
            self.model.save(self.path)
            self.env = copy.deepcopy(self.model.get_env())
            self.random = np.random.get_state(), torch.get_rng_state()


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    rollout = STEPS * AGENTS
    uninterrupted = build("discrete", **RESUMED[name])
    saved = SaveOnce(tmp_path / "model", after=2 * rollout)
    uninterrupted.learn(4 * rollout, callback=saved)

    resumed = AggPPO.load(tmp_path / "model", env=saved.env, device="cpu", force_reset=False)
    assert resumed._server.state_dict()["num_steps"] == 2 * 8
    np.random.set_state(saved.random[0])
    torch.set_rng_state(saved.random[1])
    resumed.learn(2 * rollout, reset_num_timesteps=False)
    assert resumed.num_timesteps == uninterrupted.num_timesteps
    assert torch.equal(parameters(resumed), parameters(uninterrupted))
    assert resumed.ledger.state_dict() == uninterrupted.ledger.state_dict()
    gates = [model._server.state_dict()["gate"] for model in (resumed, uninterrupted)]
    if gates[0] is not None:
        assert resumed.ledger.messages < resumed.ledger.bytes_down / 4 / 9155  # it did hold messages back
        assert all(torch.equal(gates[0][key], gates[1][key]) for key in gates[0])


def test_a_stock_file_trains_on_with_a_combiner(tmp_path: Path) -> None:
    stock = PPO("MlpPolicy", cartpoles(AGENTS), n_steps=STEPS, batch_size=20, seed=0, device="cpu").learn(STEPS * AGENTS)
    stock.save(tmp_path / "stock")
    settings = {"aggregation": "median", "communication": "lag", "attack": {"kind": "nan", "agents": [0]}}
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(AGENTS), device="cpu", **settings)
    assert torch.equal(parameters(model), parameters(stock))
    model.learn(STEPS * AGENTS, reset_num_timesteps=False)
    assert not torch.equal(parameters(model), parameters(stock))
    assert model.ledger.messages_per_agent[0] == 0
    assert model.ledger.messages > 0
    model.save(tmp_path / "combined")
    assert torch.equal(parameters(PPO.load(tmp_path / "combined", device="cpu")), parameters(model))


def test_other_settings_after_a_load(tmp_path: Path) -> None:
    """A gate that was, a rule that is: what still fits goes on."""
    model = build("discrete", **RESUMED["lag"]).learn(STEPS * AGENTS)
    model.save(tmp_path / "model")
    sent = model.ledger.messages
    load = {"env": cartpoles(AGENTS), "device": "cpu"}
    plain = AggPPO.load(tmp_path / "model", **load, aggregation="mean", communication="every", communication_kwargs=None)
    assert plain._server is None
    assert plain.learn(STEPS * AGENTS, reset_num_timesteps=False).ledger.messages == sent + 8 * AGENTS
    krum = AggPPO.load(tmp_path / "model", **load, aggregation="krum")
    assert krum.learn(STEPS * AGENTS, reset_num_timesteps=False).ledger.messages > sent


@pytest.mark.parametrize("num_agents", [4, 10])
def test_more_and_fewer_agents_after_a_load(num_agents: int, tmp_path: Path) -> None:
    model = build("discrete", **RESUMED["lag"]).learn(STEPS * AGENTS)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(num_agents), device="cpu")
    known = min(num_agents, AGENTS)
    np.testing.assert_array_equal(loaded.ledger.messages_per_agent[:known], model.ledger.messages_per_agent[:known])
    loaded.learn(STEPS * num_agents, reset_num_timesteps=False)
    assert (loaded.ledger.messages_per_agent[known:] > 0).all()
    assert loaded._server.state_dict()["gate"]["sent"].shape == (num_agents, 9155)


# The ledger in the log -----------------------------------------------------------------------------------------------------

SMALL_POLICY = 2 * ((4 * 64 + 64) + (64 * 64 + 64)) + (64 * 2 + 2) + (64 * 1 + 1)  # two towers, action and value heads


@pytest.mark.parametrize(
    ("settings", "scalars"),
    [
        ({"aggregation": "mean"}, 0),
        ({"aggregation": "r_weighted"}, 1),
        ({"aggregation": "l_weighted"}, 1),
        ({"aggregation": "median"}, 0),
        ({"aggregation": "l_weighted", "communication": "lag", "communication_kwargs": {"xi": 0}}, 1),
    ],
)
def test_logged_messages_and_bytes(settings: dict[str, Any], scalars: int) -> None:
    """Two rollouts of 5 x 16 samples in minibatches of 20, twice over: 16 steps, and 5 agents send at each."""
    model = build("discrete", **settings).learn(2 * STEPS * AGENTS)
    log = model.logger.name_to_value
    assert SMALL_POLICY == 9155
    assert log["agg/messages"] == model.ledger.messages == 16 * 5
    assert log["agg/bytes"] == model.ledger.bytes == 16 * 5 * 4 * (SMALL_POLICY + scalars)
    assert log["agg/bytes_down"] == model.ledger.bytes_down == 16 * 5 * 4 * SMALL_POLICY
    assert model.ledger.physical_bytes == 0  # one process


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_an_update_that_ends_early_sends_no_more(aggregation: str) -> None:
    model, steps = build("discrete", aggregation=aggregation, target_kl=1e-6), []
    model.policy.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model.learn(STEPS * AGENTS)
    assert 0 < len(steps) < 8
    assert model.ledger.messages == len(steps) * AGENTS
    assert model.ledger.bytes_down == 4 * SMALL_POLICY * len(steps) * AGENTS


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_an_agent_without_a_usable_gradient_sends_nothing_where_one_backward_does() -> None:
    model = AggPPO("MlpPolicy", walks({"length": 4}, {"length": 4}), n_steps=16, batch_size=None, n_epochs=1, device="cpu")
    model.learn(32)
    assert model.ledger.messages_per_agent.tolist() == [1, 1]
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    model.rollout_buffer.log_probs[:, 1] = -200.0  # the ratio overflows
    model.train()
    assert model.ledger.messages_per_agent.tolist() == [2, 1]


# Construction --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "krumm"}, "unknown aggregation 'krumm' (did you mean 'krum'?); choose from actor_mean"),
        ({"aggregation": "krum", "aggregation_kwargs": {"f": 1}}, "krum has no setting 'f'; choose from num_byzantine"),
        (
            {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 2}},
            "krum with num_byzantine=2 needs more than 5 ag",
        ),
        ({"aggregation": "krum", "aggregation_kwargs": {"num_selected": 6}}, "krum cannot select num_selected=6 of 5 agents"),
        ({"aggregation": "trimmed_mean", "aggregation_kwargs": {"num_byzantine": 3}}, "which allow at most 2"),
        ({"aggregation": "geometric_median", "aggregation_kwargs": {"smoothing": 0}}, "smoothing must be a finite number > 0"),
        ({"aggregation": "mixtailor", "aggregation_kwargs": {"combiners": ["mean"]}}, "unknown combiner 'mean'"),
        ({"aggregation": "median", "aggregation_kwargs": {"normalize": True}}, "median has no setting 'normalize'"),
        ({"aggregation": Median(), "aggregation_kwargs": {"a": 1}}, "Median() has its settings already, got {'a': 1} besides"),
        ({"aggregation": Median}, "Median is a class; give Median() or its name 'median'"),
        ({"aggregation": "torchjd:Mode"}, "unknown TorchJD aggregator 'Mode' (did you mean 'MoCo'?)"),
        ({"aggregation": "torchjd:Krum", "aggregation_kwargs": {"n_byzantine": 3}}, "cannot combine 5 agents"),
        ({"communication": "lagg"}, "unknown communication 'lagg' (did you mean 'lag'?); choose from every, lag"),
        ({"communication_kwargs": {"xi": 1}}, "every has no setting 'xi'; it has none"),
        ({"communication": "lag", "communication_kwargs": {"xi": -1}}, "xi must be a finite number >= 0, got -1"),
        (
            {"communication": "lag", "communication_kwargs": {"horizon": 1}},
            "lag has no setting 'horizon'; choose from window, xi",
        ),
        ({"attack": {"kind": "flip", "agents": [0]}}, "unknown attack 'flip' (did you mean 'sign_flip'?); choose from nan"),
        ({"attack": {"kind": "nan"}}, "attack needs 'agents', got {'kind': 'nan'}"),
        (
            {"attack": {"kind": "nan", "agents": [0], "size": 3}},
            "attack has no setting 'size'; choose from agents, kind, scale, seed",
        ),
        ({"attack": {"kind": "nan", "agents": [5]}}, "agent 5 cannot attack: agents are numbered 0 to 4"),
        ({"attack": Attack("nan", [7])}, "agent 7 cannot attack: agents are numbered 0 to 4"),
        ({"attack": "nan"}, "attack must be an Attack or its settings, got 'nan'"),
    ],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message.removesuffix(" (did you mean 'MoCo'?)"))) as caught:
        build("discrete", **settings)
    assert "\n" not in str(caught.value)


def test_good_settings_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("discrete", aggregation="median", communication="lag").learn(STEPS * AGENTS)
