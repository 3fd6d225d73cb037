"""What users bring along: callbacks that read rollouts or write to the policy, probes on methods, buffers, frozen encoders."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from rl_agg.combiners import make_combiner
from sb3_agg import AggPPO, AggregationMixin
from tests.sb3.worlds import Walk, cartpoles, walks

AGENTS = 8
SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
ROLLOUT = AGENTS * 16

SYSTEMS: list[dict[str, Any]] = [
    {"aggregation": "mean"},
    {"aggregation": "l_weighted"},
    {"aggregation": "median"},
    {"aggregation": "krum"},
    {"aggregation": "mean", "communication": "lag"},
    {"aggregation": "fedavg"},
    {"aggregation": "actor_mean"},
]


class On(BaseCallback):
    """Do something at one of a run's moments: ``rollout_start``, ``step`` or ``rollout_end``."""

    def __init__(self, moment: str, act: Callable[[Any], object]) -> None:
        super().__init__()
        self.moment, self.act = moment, act

    def _at(self, moment: str) -> None:
        if self.moment == moment:
            self.act(self.model)

    def _on_rollout_start(self) -> None:
        self._at("rollout_start")

    def _on_step(self) -> bool:
        self._at("step")
        return True

    def _on_rollout_end(self) -> None:
        self._at("rollout_end")


# What is frozen stays as it is ------------------------------------------------------------------------------------------


class Pretrained(BaseFeaturesExtractor):
    """An encoder that is used as it is, and a head that is trained."""

    def __init__(self, space: gym.spaces.Box) -> None:
        super().__init__(space, 8)
        self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 8)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            codes = self.encoder(observations)
        return self.head(codes).relu()


@pytest.mark.parametrize("system", SYSTEMS, ids=str)
def test_a_part_evaluated_without_gradients_is_not_trained(system: dict[str, Any]) -> None:
    model = AggPPO(
        "MlpPolicy", cartpoles(AGENTS), policy_kwargs={"features_extractor_class": Pretrained}, **system, **SETTINGS
    )
    extractor = model.policy.features_extractor
    encoder, head = extractor.encoder.weight.detach().clone(), extractor.head.weight.detach().clone()
    model.learn(2 * ROLLOUT)
    assert torch.equal(extractor.encoder.weight, encoder)
    assert not torch.equal(extractor.head.weight, head)


# Advantages -------------------------------------------------------------------------------------------------------------


def test_reading_the_rollout_changes_nothing() -> None:
    def read(model: AggPPO) -> None:
        next(iter(model.rollout_buffer.get(8)))  # draws an order, as an update does where nobody has flattened the arrays

    def run(callback: BaseCallback | None) -> torch.Tensor:
        model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(2 * ROLLOUT, callback=callback)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    torch.testing.assert_close(run(On("rollout_end", read)), run(None), atol=1e-6, rtol=0)


def test_single_steps_are_normalised_across_agents() -> None:
    seen = []

    class Loss(AggPPO):
        def train(self) -> None:
            super().train()
            seen.append(self.logger.name_to_value["train/policy_gradient_loss"])

    model = Loss(
        "MlpPolicy", walks(*[{"reward": float(10 * agent)} for agent in range(8)]), n_steps=1, batch_size=None, seed=0
    )
    model.n_epochs = 1
    model.learn(32)
    np.testing.assert_allclose(seen, 0.0, atol=1e-6)  # the ratio is 1, and the mean advantage 0


# Methods and buffers of one's own ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "method", "system"),
    [
        ("policy", "evaluate_actions", {"aggregation": "r_weighted"}),
        ("policy", "evaluate_actions", {"aggregation": "median"}),
        ("policy", "evaluate_actions", {"aggregation": "mean", "minibatches": "stock"}),
        ("policy", "predict_values", {"aggregation": "fedavg", "aggregation_kwargs": {"interval": 3}}),
        ("policy.action_net", "forward", {"aggregation": "median"}),
        ("policy.action_net", "forward", {"aggregation": "fedavg"}),
        ("rollout_buffer", "get", {"aggregation": "mean", "minibatches": "stock"}),
    ],
)
def test_a_probe_on_a_method_stays(owner: str, method: str, system: dict[str, Any]) -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **system, **SETTINGS)
    item, calls = attrgetter(owner)(model), 0
    own = getattr(item, method)

    def probe(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return own(*args, **kwargs)

    setattr(item, method, probe)
    counts = [calls]
    for _ in range(3):
        model.learn(ROLLOUT, reset_num_timesteps=False)
        counts.append(calls)
    assert (np.diff(counts) > 0).all()
    assert vars(item)[method] is probe


class Half(RolloutBuffer):
    """Serves the samples with the largest advantages."""

    served = 0

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        next(super().get(1))
        best = np.argsort(-np.abs(self.advantages.ravel()))[: self.advantages.size // 2]
        for part in np.split(best, 2):
            self.served += len(part)
            yield self._get_samples(part)


def test_a_buffer_that_serves_its_own_minibatches_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"in place of those of Half\.get\(\); choose minibatches='stock'"):
        AggPPO("MlpPolicy", cartpoles(AGENTS), rollout_buffer_class=Half, **SETTINGS)
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), rollout_buffer_class=Half, minibatches="stock", **SETTINGS).learn(ROLLOUT)
    assert model.rollout_buffer.served == ROLLOUT // 2


class OwnSamples(RolloutBuffer):
    """Does not even draw as SB3 does."""

    def get(self, batch_size: int | None = None) -> Iterator[Any]:
        yield RolloutBufferSamples(*[torch.zeros(8, 4), *[torch.zeros(8)] * 5])


def test_samples_of_unknown_agents_are_refused() -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), rollout_buffer_class=OwnSamples, minibatches="stock", **SETTINGS)
    with pytest.raises(ValueError, match=r"OwnSamples must draw by _get_samples\(\)"):
        model.learn(ROLLOUT)


# Writing to the policy --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["rollout_start", "step", "rollout_end"])
@pytest.mark.parametrize(
    "system", [{"aggregation": "fedavg", "aggregation_kwargs": {"interval": 4}}, {"aggregation": "actor_mean"}]
)
def test_what_a_callback_writes_to_the_policy_is_where_agents_go_on(system: dict[str, Any], moment: str) -> None:
    @torch.no_grad()
    def write(model: AggPPO) -> None:
        if model.num_timesteps >= ROLLOUT:
            model.policy.action_net.weight.fill_(7.0)

    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **system, **SETTINGS)
    model.learn(3 * ROLLOUT, callback=On(moment, write))
    torch.testing.assert_close(model.policy.action_net.weight, torch.full((2, 64), 7.0), atol=0.01, rtol=0)


# Another environment, another number of agents --------------------------------------------------------------------------


def test_returns_of_other_environments_weigh_nobody() -> None:
    model = AggPPO("MlpPolicy", walks(*[{"reward": 20.0}] * AGENTS), aggregation="r_weighted", **SETTINGS).learn(ROLLOUT)
    np.testing.assert_array_equal(model.agent_returns, [100.0] * AGENTS)
    model.set_env(walks(*[{"reward": -2.0}] * (AGENTS - 1), {"length": None}))
    model.learn(ROLLOUT, reset_num_timesteps=False)
    np.testing.assert_array_equal(model.agent_returns, [-10.0] * (AGENTS - 1) + [np.nan])


def test_a_new_run_forgets_the_returns_of_the_last(tmp_path: Path) -> None:
    model = AggPPO("MlpPolicy", walks(*[{"reward": 20.0}] * AGENTS), aggregation="r_weighted", **SETTINGS).learn(ROLLOUT)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=walks(*[{"length": None}] * AGENTS))
    with pytest.warns(UserWarning, match="no agent has finished an episode yet"):
        loaded.learn(ROLLOUT)
    assert np.isnan(loaded.agent_returns).all()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"aggregation": "krum"}, "krum"),
        ({"aggregation": "mean", "attack": {"kind": "scale", "agents": [3]}}, "agent 3 cannot attack"),
        ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [1] * AGENTS}}, "local_epochs"),
    ],
)
def test_a_file_acts_with_any_number_of_agents_and_learns_with_those_that_fit(
    settings: dict[str, Any], error: str, tmp_path: Path
) -> None:
    AggPPO("MlpPolicy", cartpoles(AGENTS), **settings, **SETTINGS).learn(ROLLOUT).save(tmp_path / "model")
    env = cartpoles(1)
    model = AggPPO.load(tmp_path / "model", env=env)
    model.predict(env.reset())
    with pytest.raises(ValueError, match=error):
        model.learn(ROLLOUT)
    AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS)).learn(ROLLOUT)


def test_a_stock_file_with_a_batch_that_does_not_split_acts_and_learns(tmp_path: Path) -> None:
    PPO("MlpPolicy", cartpoles(6), n_steps=32, device="cpu").save(tmp_path / "stock")
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(6))
    model.predict(model.env.reset())
    with pytest.warns(UserWarning, match="batch_size=64 does not split evenly among 6 agents"):
        model.learn(192)
    AggPPO.load(tmp_path / "stock", env=cartpoles(6), minibatches="stock").learn(192)


# Lives ------------------------------------------------------------------------------------------------------------------


class Lives(gym.Wrapper):
    """Ends an episode for the agent at every second step, as a lost life does, outside of Monitor."""

    def reset(self, **kwargs: Any) -> Any:
        self.position = 0 if not hasattr(self, "position") or self.position >= 10 else self.position
        return self.env.reset(**kwargs) if self.position == 0 else (self.observation_space.sample(), {})

    def step(self, action: int) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.position += 1
        return observation, reward, terminated or self.position % 2 == 0, truncated, info


def test_lives_are_no_episodes() -> None:
    env = DummyVecEnv([lambda: Lives(Monitor(Walk(length=10)))] * 4)
    model = AggPPO("MlpPolicy", env, aggregation="r_weighted", min_episodes=2, n_steps=4, batch_size=None, seed=0)
    lengths: list[int] = []
    model.learn(100, callback=On("rollout_end", lambda model: lengths.append(model.rollout_buffer.buffer_size)))
    assert lengths[0] == 20
    np.testing.assert_array_equal(model.agent_returns, [10.0] * 4)


# Settings of a file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("cls", [AggPPO, PPO])
def test_the_kernel_is_the_models_choice_and_not_the_files(cls: Any, fused: bool, tmp_path: Path) -> None:
    cls("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(ROLLOUT).save(tmp_path / "model")
    model = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), fused_optimizer=fused).learn(ROLLOUT)
    assert model.policy.optimizer.param_groups[0]["fused"] is (True if fused else None)


def test_weights_of_another_rule_are_not_told_as_those_of_this_one(tmp_path: Path) -> None:
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), aggregation="r_weighted", **SETTINGS).learn(ROLLOUT)
    assert np.isfinite(model.agent_weights).all()
    model.save(tmp_path / "model")
    assert np.isnan(AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), aggregation="median").agent_weights).all()


def test_a_combiner_of_ones_own_begins_anew_in_every_model() -> None:
    combiner = make_combiner("torchjd:GradVac", {})

    def run() -> torch.Tensor:
        model = AggPPO("MlpPolicy", cartpoles(AGENTS), aggregation=combiner, **SETTINGS).learn(2 * ROLLOUT)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    assert torch.equal(run(), run())


# What would not act is refused ------------------------------------------------------------------------------------------

SEPARATE: list[dict[str, Any]] = [{"aggregation": "median"}, {"payload": "parameters"}, {"aggregation": "actor_mean"}]


class Evaluating(PPO):
    """Updates once for each rollout; the subclass says by what loss."""

    def train(self) -> None:
        for samples in self.rollout_buffer.get(self.batch_size):
            self.policy.optimizer.zero_grad()
            self.backward(samples)
            self.policy.optimizer.step()

    def loss(self, samples: RolloutBufferSamples) -> torch.Tensor:
        values, log_prob, _ = self.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())
        return (values.flatten() - samples.returns).square().mean() - (log_prob * samples.advantages).mean()

    def backward(self, samples: RolloutBufferSamples) -> None:
        self.loss(samples).backward()


class AggEvaluating(AggregationMixin, Evaluating):
    pass


class Penalised(AggEvaluating):
    def loss(self, samples: RolloutBufferSamples) -> torch.Tensor:
        return super().loss(samples) + self.policy.action_net.weight.square().sum()


class Accumulating(AggEvaluating):
    def backward(self, samples: RolloutBufferSamples) -> None:
        for _ in range(2):
            self.loss(samples).backward()


@pytest.mark.parametrize("system", SEPARATE, ids=str)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Penalised, r"a part that reaches parameters other than through policy.evaluate_actions\(\)"),
        (Accumulating, "two evaluations were differentiated before one step"),
    ],
)
def test_a_loss_that_would_not_act_is_refused(kind: Any, message: str, system: dict[str, Any]) -> None:
    AggEvaluating("MlpPolicy", cartpoles(AGENTS), **system, **SETTINGS).learn(ROLLOUT)
    with pytest.raises(ValueError, match=message):
        kind("MlpPolicy", cartpoles(AGENTS), **system, **SETTINGS).learn(ROLLOUT)


@pytest.mark.parametrize("kind", [Penalised, Accumulating])
def test_a_loss_of_a_users_own_acts_where_a_rule_weighs_it(kind: Any) -> None:
    def trained(cls: Any) -> torch.Tensor:
        model = cls("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(ROLLOUT)
        return torch.cat([parameter.flatten() for parameter in model.policy.parameters()])

    assert not torch.equal(trained(kind), trained(AggEvaluating))


class Copier(BaseCallback):
    """Copies the model, and its policy, while it acts."""

    def _on_step(self) -> bool:
        if self.n_calls == 5:
            self.model_copy, self.policy_copy = copy.deepcopy(self.model), copy.deepcopy(self.model.policy)
        return True


COPIED: list[dict[str, Any]] = [
    {"aggregation": "mean"},
    {"aggregation": "fedavg", "aggregation_kwargs": {"interval": 10}, "closed_form": False},
]


@pytest.mark.parametrize("settings", COPIED)
def test_a_copy_that_a_callback_makes_acts_and_learns_by_itself(settings: dict[str, Any]) -> None:
    copier = Copier()
    model = AggPPO("MlpPolicy", cartpoles(3), n_steps=16, batch_size=24, n_epochs=1, seed=0, **settings)
    model.learn(3 * 16 * 2)
    model.learn(3 * 16, callback=copier, reset_num_timesteps=False)
    twin = copier.model_copy
    assert not {"forward", "predict_values"} & vars(twin.policy).keys()
    observations = torch.as_tensor(model.env.reset())
    for policy in (twin.policy, copier.policy_copy):
        with torch.no_grad():
            before = policy(observations, deterministic=True)[1].clone()
            for parameter in policy.value_net.parameters():
                parameter.add_(1.0)
            assert not torch.equal(policy(observations, deterministic=True)[1], before)
    twin.learn(3 * 16)
    assert (twin.why_no_closed_form is None) == (settings["aggregation"] == "mean")
