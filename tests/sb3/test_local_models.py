"""Agents with parameters of their own, against as many models that know nothing of each other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.envs import InvalidActionEnvDiscrete
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn
from worlds import Walk, cartpoles, walks

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO
from sb3_agg.minibatches import Minibatches

AGENTS, STEPS = 3, 32
SCHEMES = ["fedavg", "fedprox", "actor_sum", "actor_mean"]
NET = {"net_arch": [8]}


class Served(Minibatches):
    """Remembers the minibatches of the last update."""

    record: list[Any]

    def _serve(self, samples: Any, part: int) -> Any:
        self.record.append(samples)
        return super()._serve(samples, part)


def build(scheme: Any = "fedavg", cls: Any = AggPPO, env: Any = None, num_agents: int = AGENTS, **settings: Any) -> Any:
    settings = {"n_steps": STEPS, "seed": 0, "device": "cpu", "policy_kwargs": dict(NET), **settings}
    if cls is not AggA2C:
        settings = {"batch_size": 8 * num_agents, "n_epochs": 2, **settings}
    env = make_vec_env(env or "CartPole-v1", num_agents, seed=0) if env is None or isinstance(env, str) else env
    kwargs = settings.pop("aggregation_kwargs", {})
    return cls("MlpPolicy", env, aggregation=scheme, aggregation_kwargs=kwargs, **settings)


def learn(model: Any, updates: int = 1, **kwargs: Any) -> Any:
    if isinstance(model, AggMaskablePPO):
        kwargs["use_masking"] = False
    return model.learn(updates * model.n_steps * model.n_envs, **kwargs)


def flat(policy: Any) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in policy.parameters()])


def write(policy: Any, row: Tensor) -> Any:
    """Put ``[P]`` into a policy."""
    torch.nn.utils.vector_to_parameters(row.clone(), policy.parameters())
    return policy


def copies(model: Any) -> Tensor:
    rows: Tensor = model.get_parameters()["policy.optimizer"]["local_models"]["copies"]
    return rows.clone()


def recorded(model: Any, updates: int = 1) -> list[list[Any]]:
    """Learn, and return the minibatches of each update."""
    record: list[list[Any]] = []

    class Recording(Served):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.record = []
            record.append(self.record)

    model.minibatches_class = Recording
    learn(model, updates)
    return record


def of_agent(samples: Any, agent: int, num_agents: int) -> Any:
    """Its part of a minibatch."""
    size = len(samples.advantages) // num_agents
    return type(samples)(*[field[agent * size : (agent + 1) * size] for field in samples])


class Alone:
    """A stock algorithm that is given its minibatches. ``prox`` is added to the gradients before they are clipped."""

    def __init__(self, stock: Any, env: str, start: Any, settings: dict[str, Any], mu: float = 0.0) -> None:
        own = {"n_steps": STEPS, "seed": 5, "device": "cpu", "policy_kwargs": dict(NET), "normalize_advantage": False}
        self.model = stock("MlpPolicy", make_vec_env(env, 1), **{**own, **settings})
        self.model.set_logger(Logger(None, []))
        self.model.policy.load_state_dict(start.state_dict())
        self.mu = mu
        for parameter in self.model.policy.parameters():
            parameter.register_post_accumulate_grad_hook(self._draw)
        self.start_from(flat(self.model.policy))

    def start_from(self, merged: Tensor) -> None:
        write(self.model.policy, merged)
        self.merged = {parameter: parameter.detach().clone() for parameter in self.model.policy.parameters()}

    def _draw(self, parameter: Any) -> None:
        parameter.grad += self.mu * (parameter.detach() - self.merged[parameter])

    def train(self, minibatches: list[Any]) -> Tensor:
        epochs = getattr(self.model, "n_epochs", 1)
        served = iter(np.array_split(np.arange(len(minibatches)), epochs))
        self.model.rollout_buffer.get = lambda *_, **__: (minibatches[i] for i in next(served))
        self.model.train()
        return flat(self.model.policy)


STOCK = {AggPPO: PPO, AggA2C: A2C, AggMaskablePPO: MaskablePPO}


# FedAvg and FedProx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize(
    ("cls", "env", "settings"),
    [
        (AggPPO, "CartPole-v1", {}),
        (AggPPO, "Pendulum-v1", {"ent_coef": 0.01, "clip_range_vf": 0.2}),
        (AggPPO, "Pendulum-v1", {"batch_size": None}),
        (AggA2C, "CartPole-v1", {"ent_coef": 0.01}),
        (AggA2C, "Pendulum-v1", {}),
        (AggMaskablePPO, "CartPole-v1", {}),
    ],
)
def test_fedavg_is_models_trained_alone_and_averaged(cls: Any, env: str, settings: dict[str, Any], mu: float) -> None:
    """Two rounds, so that moments outlive a merge."""
    kwargs = {"mu": mu} if mu else {}
    scheme = "fedprox" if mu else "fedavg"
    model = build(scheme, cls, env, aggregation_kwargs=kwargs, normalize_advantage=False, learning_rate=0.003, **settings)
    start = copy.deepcopy(model.policy)
    rounds = recorded(model, 2)
    own = {"learning_rate": 0.003, **settings} | ({} if cls is AggA2C else {"n_epochs": 2, "batch_size": 8})
    alone = [Alone(STOCK[cls], env, start, own, mu) for _ in range(AGENTS)]
    for minibatches in rounds:
        assert len(minibatches) == (1 if cls is AggA2C else 2 if "batch_size" in settings else 8)
        trained = [item.train([of_agent(s, agent, AGENTS) for s in minibatches]) for agent, item in enumerate(alone)]
        merged = torch.stack(trained).mean(0)
        for item in alone:
            item.start_from(merged)
    assert (flat(start) - merged).norm() > 0.01
    torch.testing.assert_close(flat(model.policy), merged, rtol=1e-6, atol=1e-6)
    assert torch.equal(copies(model), flat(model.policy).expand(AGENTS, -1))
    spread = (torch.stack(trained) - merged).norm(dim=1).mean().item()
    assert model.logger.name_to_value["agg/divergence"] == pytest.approx(spread, rel=1e-3)


def test_fedprox_without_mu_is_fedavg() -> None:
    one = learn(build("fedprox", aggregation_kwargs={"mu": 0.0, "interval": 2}), 3)
    other = learn(build("fedavg", aggregation_kwargs={"interval": 2}), 3)
    assert torch.equal(copies(one), copies(other))
    drawn = learn(build("fedprox", aggregation_kwargs={"mu": 1.0, "interval": 2}), 3)
    assert not torch.equal(copies(one), copies(drawn))


def test_one_step_of_gradient_descent_is_the_mean_of_gradients() -> None:
    settings: dict[str, Any] = {"batch_size": None, "n_epochs": 1, "max_grad_norm": float("inf"), "learning_rate": 0.1}
    settings["policy_kwargs"] = {**NET, "optimizer_class": torch.optim.SGD}
    start = flat(build("mean", **settings).policy)
    one, other = learn(build("fedavg", **settings)), learn(build("mean", **settings))
    torch.testing.assert_close(flat(one.policy), flat(other.policy), rtol=1e-6, atol=1e-6)
    assert (flat(one.policy) - start).norm() > 0.01


def test_agents_keep_their_copies_until_they_are_merged() -> None:
    model = build("fedavg", aggregation_kwargs={"interval": 3})
    start = flat(model.policy)
    for update in range(1, 7):
        learn(model, reset_num_timesteps=False)
        rows = copies(model)
        torch.testing.assert_close(flat(model.policy), rows.mean(0), rtol=1e-6, atol=1e-6)
        differ = (rows - rows[0]).abs().max() > 0
        assert differ == (update % 3 != 0)
        assert not torch.equal(rows[0], start)


@pytest.mark.parametrize("local_epochs", [[0, 1, 3], [3, 3, 2]])
def test_an_agent_that_has_done_its_epochs_stops_but_counts(local_epochs: list[int]) -> None:
    env = "CartPole-v1"
    model = build(aggregation_kwargs={"local_epochs": local_epochs}, n_epochs=3, normalize_advantage=False)
    start = copy.deepcopy(model.policy)
    alone = [Alone(PPO, env, start, {"n_epochs": max(1, epochs), "batch_size": 8}) for epochs in local_epochs]
    for minibatches in recorded(model, 2):
        per_epoch = len(minibatches) // 3
        trained = []
        for agent, (item, epochs) in enumerate(zip(alone, local_epochs, strict=True)):
            own = [of_agent(samples, agent, AGENTS) for samples in minibatches[: epochs * per_epoch]]
            trained.append(item.train(own) if epochs else flat(item.model.policy))
        merged = torch.stack(trained).mean(0)
        for item in alone:
            item.start_from(merged)
    torch.testing.assert_close(flat(model.policy), merged, rtol=1e-6, atol=1e-6)
    assert model.logger.name_to_value["agg/masked_agents"] == 0


@pytest.mark.parametrize("moments", ["keep", "merge", "reset"])
def test_what_becomes_of_moments(moments: str) -> None:
    model = build(aggregation_kwargs={"moments": moments}, normalize_advantage=False)
    start = copy.deepcopy(model.policy)
    alone = [Alone(PPO, "CartPole-v1", start, {"n_epochs": 2, "batch_size": 8}) for _ in range(AGENTS)]
    for minibatches in recorded(model, 3):
        trained = [item.train([of_agent(s, agent, AGENTS) for s in minibatches]) for agent, item in enumerate(alone)]
        merged = torch.stack(trained).mean(0)
        states = [item.model.policy.optimizer.state for item in alone]
        for item in alone:
            item.start_from(merged)
        if moments == "reset":
            for state in states:
                state.clear()
        elif moments == "merge":
            for parameters in zip(*[item.model.policy.parameters() for item in alone], strict=True):
                for name in ("exp_avg", "exp_avg_sq"):
                    mean = torch.stack([state[p][name] for state, p in zip(states, parameters, strict=True)]).mean(0)
                    for state, parameter in zip(states, parameters, strict=True):
                        state[parameter][name].copy_(mean)
    torch.testing.assert_close(flat(model.policy), merged, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_copies_count_by_their_samples() -> None:
    """Agent 2 is masked in the second of two updates, so it counts half as much as each other."""
    env = walks({"length": 4}, {"length": 4}, {"length": 4, "broken": np.nan, "broken_steps": range(STEPS, 2 * STEPS)})
    model = build(env=env, aggregation_kwargs={"interval": 3})
    learn(model)
    first = copies(model)
    with pytest.warns(UserWarning, match="agent 2 had"):
        learn(model, reset_num_timesteps=False)
    second = copies(model)
    assert torch.equal(second[2], first[2])  # masked: left as it is
    assert not torch.equal(second[1], first[1])
    expected = (2 * second[0] + 2 * second[1] + second[2]) / 5
    torch.testing.assert_close(flat(model.policy), expected, rtol=1e-6, atol=1e-6)
    learn(model, reset_num_timesteps=False)
    assert torch.equal(copies(model), flat(model.policy).expand(3, -1))


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_samples_are_counted_on_after_a_load(tmp_path: Path) -> None:
    broken = {"length": 4, "broken": np.nan, "broken_steps": range(STEPS)}
    model = build(env=walks({"length": 4}, {"length": 4}, broken), aggregation_kwargs={"interval": 3})
    with pytest.warns(UserWarning, match="agent 2 had"):
        learn(model)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=walks(*[{"length": 4}] * 3), device="cpu")
    learn(loaded, reset_num_timesteps=False)
    expected = (2 * copies(loaded)[0] + 2 * copies(loaded)[1] + copies(loaded)[2]) / 5
    torch.testing.assert_close(flat(loaded.policy), expected, rtol=1e-6, atol=1e-6)


# ActorSum and ActorMean -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_actor_mean_of_one_agent_is_stock_with_the_gradient_doubled(env: str) -> None:
    """Acting included, over four rollouts. Neither Adam nor clipping would let the factor show."""
    descent = {"policy_kwargs": {**NET, "optimizer_class": torch.optim.SGD}, "max_grad_norm": 1e9, "learning_rate": 0.003}
    settings = {"n_steps": STEPS, "n_epochs": 3, "seed": 4, "device": "cpu", "ent_coef": 0.01, **descent}
    stock = PPO("MlpPolicy", make_vec_env(env, 1, seed=4), batch_size=STEPS, **settings)
    for parameter in stock.policy.parameters():
        parameter.register_hook(lambda gradient: 2 * gradient)
    stock.learn(4 * STEPS)
    model = AggPPO("MlpPolicy", make_vec_env(env, 1, seed=4), aggregation="actor_mean", batch_size=None, **settings)
    torch.testing.assert_close(flat(learn(model, 4).policy), flat(stock.policy), rtol=1e-4, atol=1e-5)


def ppo_loss(policy: Any, samples: Any, discrete: bool) -> Tensor:
    actions = samples.actions.long().flatten() if discrete else samples.actions
    values, log_prob, _ = policy.evaluate_actions(samples.observations, actions)
    ratio = (log_prob - samples.old_log_prob).exp()
    surrogate = torch.min(ratio * samples.advantages, ratio.clamp(0.8, 1.2) * samples.advantages)
    return (-surrogate + 0.5 * (samples.returns - values.flatten()) ** 2).mean()


@pytest.mark.parametrize("same_init", [True, False])
@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize("scheme", ["actor_sum", "actor_mean"])
def test_each_actor_steps_with_its_gradient_and_that_of_all(scheme: str, env: str, same_init: bool) -> None:
    model = build(scheme, env=env, aggregation_kwargs={"same_init": same_init}, learning_rate=0.003)
    start = copies(model)
    assert bool((start[0] == start[1]).all()) == same_init
    alone = [write(copy.deepcopy(model.policy), row) for row in start]
    optimizers = [torch.optim.Adam(policy.parameters(), lr=0.003, eps=1e-5) for policy in alone]
    for minibatches in recorded(model, 2):
        for samples in minibatches:
            gradients = []
            for agent, policy in enumerate(alone):
                loss = ppo_loss(policy, of_agent(samples, agent, AGENTS), env == "CartPole-v1")
                gradients.append(torch.autograd.grad(loss, list(policy.parameters())))
            for own, policy, optimizer in zip(gradients, alone, optimizers, strict=True):
                for parameter, mine, *all_of_them in zip(policy.parameters(), own, *gradients, strict=True):
                    total = torch.stack(all_of_them).sum(0)
                    parameter.grad = mine + (total if scheme == "actor_sum" else total / AGENTS)
                torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
                optimizer.step()
    expected = torch.stack([flat(policy) for policy in alone])
    assert (expected - start).norm(dim=1).min() > 0.01
    assert (expected - expected[0]).norm(dim=1)[1:].min() > 0.001
    torch.testing.assert_close(copies(model), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flat(model.policy), expected.mean(0), rtol=1e-5, atol=1e-6)


# Acting ---------------------------------------------------------------------------------------------------------------------


class Push(Walk):
    """A corridor with continuous actions."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)


class OwnPolicy(ActorCriticPolicy):
    """Of unknown origin, so that it goes through vmap."""


class RolloutSpy(BaseCallback):
    """Notes what ended episodes, and the last observation."""

    def _on_step(self) -> bool:
        for agent, info in enumerate(self.locals["infos"]):
            if info.get("TimeLimit.truncated"):
                self.ends.append((self.step, agent, info["terminal_observation"]))
        self.step += 1
        self.last = self.locals["new_obs"].copy()
        self.dones = self.locals["dones"].copy()
        return True

    def _on_rollout_start(self) -> None:
        self.step, self.ends = 0, []

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.seen = {
            name: getattr(buffer, name).copy() for name in ("observations", "actions", "values", "log_probs", "rewards")
        }
        self.seen["advantages"] = buffer.advantages.copy()
        self.seen["starts"] = buffer.episode_starts.copy()


@pytest.mark.parametrize("kind", [Walk, Push])
@pytest.mark.parametrize("policy", ["MlpPolicy", OwnPolicy])
@pytest.mark.parametrize("scheme", ["actor_sum", "fedavg"])
def test_each_agent_acts_by_its_own_parameters(scheme: str, policy: Any, kind: Any) -> None:
    """Actions, values, and the values that rewards and advantages are bootstrapped with."""
    limits = [5, 5, 7]  # two agents are cut off at once
    env = DummyVecEnv([lambda n=n: Monitor(gym.wrappers.TimeLimit(kind(length=None), n)) for n in limits])
    settings = {"n_steps": 16, "batch_size": None, "learning_rate": 0.05, "seed": 0, "device": "cpu", "policy_kwargs": NET}
    kwargs = {"interval": 9} if scheme == "fedavg" else {}
    model = AggPPO(policy, env, aggregation=scheme, aggregation_kwargs=kwargs, **settings)
    learn(model)  # apart
    before, spy = copies(model), RolloutSpy()
    learn(model, callback=spy, reset_num_timesteps=False)
    rewards, advantages = np.ones((16, 3), np.float32), np.zeros((16, 3), np.float32)
    merged = write(copy.deepcopy(model.policy), before.mean(0))
    assert len(spy.ends) == 8
    for agent, row in enumerate(before):
        alone = write(copy.deepcopy(model.policy), row)
        observations = torch.as_tensor(spy.seen["observations"][:, agent])
        actions = torch.as_tensor(spy.seen["actions"][:, agent])
        actions = actions.flatten() if kind is Walk else actions
        with torch.no_grad():
            values, log_prob, _ = alone.evaluate_actions(observations, actions)
            others, other_log_prob, _ = merged.evaluate_actions(observations, actions)
            last = alone.predict_values(torch.as_tensor(spy.last[agent : agent + 1])).item()
            for step, whose, observation in spy.ends:
                if whose == agent:
                    rewards[step, agent] += 0.99 * alone.predict_values(torch.as_tensor(observation[None])).item()
        np.testing.assert_allclose(spy.seen["log_probs"][:, agent], log_prob, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(spy.seen["values"][:, agent], values.flatten(), rtol=1e-4, atol=1e-5)
        assert np.abs(spy.seen["values"][:, agent] - others.flatten().numpy()).max() > 1e-3
        assert np.abs(spy.seen["log_probs"][:, agent] - other_log_prob.numpy()).max() > 1e-4
        advantage, following = 0.0, last
        ends = np.append(spy.seen["starts"][1:, agent], spy.dones[agent])
        for step in reversed(range(16)):
            delta = rewards[step, agent] + 0.99 * following * (1 - ends[step]) - values[step].item()
            advantage = delta + 0.99 * 0.95 * (1 - ends[step]) * advantage
            advantages[step, agent], following = advantage, values[step].item()
    np.testing.assert_allclose(spy.seen["rewards"], rewards, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(spy.seen["advantages"], advantages, rtol=1e-3, atol=1e-3)


def test_actions_follow_the_agents_own_networks() -> None:
    """Three agents that each insist on an action of their own."""

    class Choice(Walk):
        action_space = spaces.Discrete(3)

    env = DummyVecEnv([lambda: Monitor(Choice())] * 3)
    model = build("actor_sum", env=env)
    learn(model)
    state = model.get_parameters()
    rows = state["policy.optimizer"]["local_models"]["copies"]
    names = [name for name, _ in model.policy.named_parameters()]
    start = sum(dict(model.policy.named_parameters())[name].numel() for name in names[: names.index("action_net.bias")])
    for agent in range(3):
        rows[agent, start + agent] = 100.0
    model.set_parameters(state)
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, STEPS)
    assert (model.rollout_buffer.actions[:, :, 0] == [0, 1, 2]).all()


def test_masks_bind_agents_with_parameters_of_their_own() -> None:
    env = make_vec_env(lambda: InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4), n_envs=4)
    settings = {"n_steps": 16, "batch_size": None, "seed": 0, "device": "cpu", "aggregation_kwargs": {"same_init": False}}
    buffer = AggMaskablePPO("MlpPolicy", env, aggregation="actor_mean", **settings).learn(64).rollout_buffer
    allowed = buffer.action_masks.reshape(64, 8)
    assert (allowed.sum(1) == 4).all()
    assert allowed[np.arange(64), buffer.actions.flatten().astype(int)].all()


def test_the_policy_is_the_average_while_agents_act(tmp_path: Path) -> None:
    """An evaluation in the middle of a rollout asks the average, not an agent, and a checkpoint holds both."""
    model = build("actor_sum", learning_rate=0.05)
    learn(model, 2)
    merged = copy.deepcopy(model.policy)
    observations = np.random.default_rng(0).normal(size=(AGENTS, 4)).astype(np.float32)
    answers = []

    class Ask(BaseCallback):
        def _on_step(self) -> bool:
            answers.append(self.model.policy.get_distribution(torch.as_tensor(observations)).distribution.logits)
            return True

    evaluation = EvalCallback(cartpoles(1), eval_freq=16, n_eval_episodes=1, verbose=0)
    checkpoints = CheckpointCallback(16, str(tmp_path))
    before = copies(model)
    learn(model, callback=[Ask(), evaluation, checkpoints])
    saved = AggPPO.load(next(tmp_path.glob("*.zip")), env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(copies(saved), before)
    assert torch.equal(flat(saved.policy), flat(merged))
    expected = merged.get_distribution(torch.as_tensor(observations)).distribution.logits
    assert all(torch.equal(answer, expected) for answer in answers)
    assert {"forward", "predict_values"}.isdisjoint(vars(model.policy))
    assert evaluate_policy(model, cartpoles(1), n_eval_episodes=1)[0] > 0


# Files and seeds ------------------------------------------------------------------------------------------------------------

CONTINUED = [
    ("fedavg", {}),
    ("fedavg", {"interval": 3, "moments": "merge", "local_epochs": [1, 2, 2]}),
    ("fedprox", {"interval": 3, "mu": 0.5}),
    ("actor_sum", {}),
    ("actor_mean", {"same_init": False}),
]


@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
@pytest.mark.parametrize("cls", [AggPPO, AggA2C, AggMaskablePPO])
def test_a_file_goes_on_as_if_nothing_had_happened(cls: Any, scheme: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    """Two updates, then two more: a merge every three lies between."""
    model = build(scheme, cls, aggregation_kwargs=kwargs)
    learn(model, 2)
    model.save(tmp_path / "model")
    loaded = cls.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(copies(loaded), copies(model))
    for item in (model, loaded):
        item.set_random_seed(11)
        item._last_obs = None
        learn(item, 2, reset_num_timesteps=False)
    assert torch.equal(flat(loaded.policy), flat(model.policy))
    assert torch.equal(copies(loaded), copies(model))
    assert loaded.ledger.summary() == model.ledger.summary()


@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
def test_same_seed_same_copies(scheme: str, kwargs: dict[str, Any]) -> None:
    one, other = (learn(build(scheme, aggregation_kwargs=kwargs), 3) for _ in range(2))
    assert torch.equal(copies(one), copies(other))
    assert not torch.equal(copies(one), copies(learn(build(scheme, aggregation_kwargs=kwargs, seed=1), 3)))


def test_a_file_is_a_stock_model_of_the_average(tmp_path: Path) -> None:
    model = learn(build("actor_sum"), 2)
    model.save(tmp_path / "model")
    stock = PPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    torch.testing.assert_close(flat(stock.policy), copies(model).mean(0))
    assert torch.equal(flat(stock.policy), flat(model.policy))
    stock.learn(STEPS * AGENTS)
    assert not torch.equal(flat(stock.policy), flat(model.policy))


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_agents_start_from_a_stock_file(scheme: str, tmp_path: Path) -> None:
    settings = {"n_steps": STEPS, "batch_size": 24, "seed": 0, "device": "cpu"}
    stock = PPO("MlpPolicy", cartpoles(AGENTS), **settings).learn(STEPS * AGENTS)
    stock.save(tmp_path / "stock")
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(AGENTS), device="cpu", aggregation=scheme)
    assert torch.equal(copies(model), flat(stock.policy).expand(AGENTS, -1))
    learn(model, reset_num_timesteps=False)
    assert not torch.equal(flat(model.policy), flat(stock.policy))


@pytest.mark.parametrize("num_agents", [2, 5])
def test_more_and_fewer_agents_after_a_load(num_agents: int, tmp_path: Path) -> None:
    model = learn(build("actor_sum"), 2)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(num_agents), device="cpu", batch_size=10)
    rows, shared = copies(loaded), min(num_agents, AGENTS)
    assert torch.equal(rows[:shared], copies(model)[:shared])
    assert torch.equal(rows[shared:], flat(model.policy).expand(num_agents - shared, -1))
    learn(loaded, reset_num_timesteps=False)
    assert (copies(loaded) - rows).norm(dim=1).min() > 0


def test_parameters_go_from_model_to_model_and_back() -> None:
    model, other = learn(build("actor_mean"), 2), build("actor_mean", seed=3)
    other.set_parameters(model.get_parameters())
    assert torch.equal(copies(other), copies(model))
    assert torch.equal(flat(other.policy), flat(model.policy))
    before = copies(model)
    model.set_parameters(model.get_parameters())
    assert torch.equal(copies(model), before)
    learn(model)
    assert torch.equal(copies(other), before)  # nothing is shared between the two


def test_parameters_without_copies_are_everyone_s() -> None:
    model, other = learn(build("actor_mean"), 2), build("mean", seed=3)
    model.set_parameters(other.get_parameters())
    assert torch.equal(copies(model), flat(other.policy).expand(AGENTS, -1))


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_who_writes_to_the_policy_writes_to_all(scheme: str) -> None:
    """As an imitation learner does before reinforcement learning takes over."""
    model = learn(build(scheme, learning_rate=1e-30), 1)
    target = torch.randn_like(flat(model.policy))
    write(model.policy, target)
    learn(model)
    torch.testing.assert_close(copies(model), target.expand(AGENTS, -1))


# Odd data -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_an_agent_with_broken_rewards_is_left_out(scheme: str) -> None:
    """Its copy waits; what the others learn is what they would learn without it."""
    broken = {"length": 4, "broken": np.nan, "broken_steps": range(99)}
    kwargs = {} if scheme.startswith("actor") else {"interval": 9}
    settings = {"aggregation_kwargs": kwargs, "batch_size": None}
    model = build(scheme, env=walks({"length": 4}, broken, {"length": 4, "reward": 2.0}), **settings)
    start = flat(model.policy)
    with pytest.warns(UserWarning, match="agent 1 had a NaN"):
        (minibatches,) = recorded(model)
    rows = copies(model)
    assert torch.equal(rows[1], start)
    assert model.logger.name_to_value["agg/masked_agents"] == 1
    assert torch.isfinite(rows).all()
    two = build(scheme, env=walks({"length": 4}, {"length": 4}), **settings)
    learn(two)
    write(two.policy, start)
    two._local_models.start_from_policy()
    two.minibatches_class = lambda *args, **kwargs: Replayed(minibatches, *args, **kwargs)
    two.train()
    torch.testing.assert_close(copies(two), rows[[0, 2]], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(flat(model.policy), rows[[0, 2]].mean(0), rtol=1e-5, atol=1e-6)


class Replayed(Minibatches):
    """Serves minibatches of another model's."""

    def __init__(self, samples: list[Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._replayed = iter(samples)

    def _get_stratified(self, batch_size: int | None = None) -> Any:
        samples = next(self._replayed)
        yield self._serve(samples, len(samples.advantages) // self.num_present)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_agent_whose_gradient_overflows_is_left_out_of_that_step(scheme: str) -> None:
    kwargs = {} if scheme.startswith("actor") else {"interval": 9}
    model = build(scheme, env=walks({"length": 4}, {"length": 4}), aggregation_kwargs=kwargs, batch_size=None, n_epochs=1)
    learn(model)
    before, moments = copies(model), copy.deepcopy(model.get_parameters()["policy.optimizer"]["local_models"]["optimizer"])
    overflow(model, agents=[1])
    model.train()
    after = copies(model)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    assert torch.isfinite(after).all()
    state = model.get_parameters()["policy.optimizer"]["local_models"]["optimizer"]["state"]
    assert torch.equal(state[1]["exp_avg"], moments["state"][0]["exp_avg"][1])
    assert (float(state[0]["step"]), float(state[1]["step"])) == (2, 1)
    assert model.logger.name_to_value["agg/masked_agents"] == 1
    learn(model)  # it takes part again
    assert not torch.equal(copies(model)[1], after[1])


def overflow(model: Any, agents: list[int]) -> None:
    """Old log-probabilities so low that the ratio, and with it the gradient, overflows."""
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    model.rollout_buffer.log_probs[:, agents] = -200.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_without_any_finite_gradient_is_skipped(scheme: str) -> None:
    model = build(scheme, env=walks({"length": 4}, {"length": 4}), batch_size=None, n_epochs=1)
    learn(model)
    before = copies(model)
    overflow(model, agents=[0, 1])
    model.train()
    assert torch.equal(copies(model), before)
    assert model.logger.name_to_value["agg/skipped_updates"] == 1
    assert model.logger.name_to_value["agg/masked_agents"] == 2


def test_a_copy_that_is_no_longer_finite_does_not_count() -> None:
    model = learn(build("fedavg"))
    before = flat(model.policy)
    state = model.get_parameters()
    state["policy.optimizer"]["local_models"]["copies"][0, 0] = torch.inf
    model.set_parameters(state)
    sent = model._local_models.end_update(torch.ones(AGENTS))
    assert sent.tolist() == [False, True, True]
    torch.testing.assert_close(copies(model), before.expand(AGENTS, -1))


# SB3's own settings ---------------------------------------------------------------------------------------------------------


def test_the_learning_rate_follows_its_schedule() -> None:
    """Down to 0 after half of the timesteps."""
    model = build("fedavg", aggregation_kwargs={"interval": 9}, learning_rate=lambda left: max(0.0, left - 0.5))
    seen = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            seen.append(copies(model))

    learn(model, 4, callback=Watch())
    moved = [not torch.equal(one, next_one) for one, next_one in zip(seen, [*seen[1:], copies(model)], strict=True)]
    assert moved == [True, False, False, False]  # 0.25, 0, 0, 0


def test_target_kl_stops_all_agents() -> None:
    model = build("fedavg", target_kl=1e-9, n_epochs=50)
    learn(model, 2)
    assert 0 < model._n_updates < 50


def test_clipping_is_each_agent_s_own() -> None:
    """Plain gradient descent: no agent moves farther than the learning rate times the bound."""
    settings = {"batch_size": None, "n_epochs": 1, "learning_rate": 1.0, "max_grad_norm": 0.25}
    env = walks({"length": 4, "reward": 100.0}, {"length": 4, "reward": 1e-4})
    kwargs = {**NET, "optimizer_class": torch.optim.SGD}
    model = build("fedavg", env=env, policy_kwargs=kwargs, aggregation_kwargs={"interval": 9}, vf_coef=10.0, **settings)
    start = copies(model)
    distances = (copies(learn(model)) - start).norm(dim=1)
    assert distances[0].item() == pytest.approx(0.25, rel=1e-4)
    assert distances[1].item() <= 0.2501
    loose = build(
        "fedavg", env=env, policy_kwargs=kwargs, aggregation_kwargs={"interval": 9}, **(settings | {"max_grad_norm": 1e9})
    )
    assert (copies(learn(loose)) - start).norm(dim=1)[0] > 1.0


def test_the_logged_standard_deviation_is_the_average_s() -> None:
    model = learn(build("actor_sum", env="Pendulum-v1", learning_rate=0.05), 2)
    assert model.logger.name_to_value["train/std"] == pytest.approx(model.policy.log_std.exp().mean().item())


class Normalized(BaseFeaturesExtractor):
    """Batch normalisation, which has buffers."""

    def __init__(self, space: spaces.Box) -> None:
        super().__init__(space, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, observations: Tensor) -> Tensor:
        result: Tensor = self.norm(observations)
        return result


@pytest.mark.parametrize("scheme", ["fedavg", "actor_sum"])
def test_buffers_are_the_agents_own_and_averaged_like_parameters(scheme: str, tmp_path: Path) -> None:
    kwargs = {**NET, "features_extractor_class": Normalized}
    model = build(scheme, policy_kwargs=kwargs, batch_size=None, n_epochs=1)
    learn(model)
    observations = torch.as_tensor(model.rollout_buffer.observations).view(AGENTS, STEPS, 4)
    means = 0.1 * observations.mean(1)  # torch's momentum
    buffers = dict(model.policy.named_buffers())
    name = "features_extractor.norm.running_mean"
    torch.testing.assert_close(buffers[name], means.mean(0))
    assert buffers["features_extractor.norm.num_batches_tracked"] == 1
    own = model._local_models.stacked()[name]
    torch.testing.assert_close(own, means if scheme == "actor_sum" else means.mean(0).expand(AGENTS, -1))
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(loaded._local_models.stacked()[name], own)


def test_buffers_of_an_agent_that_has_stopped_stay_as_they_are() -> None:
    kwargs = {"interval": 9, "local_epochs": [0, 1, 2]}
    own = {**NET, "features_extractor_class": Normalized}
    model = learn(build(aggregation_kwargs=kwargs, policy_kwargs=own, batch_size=None))
    counts = model._local_models.stacked()["features_extractor.norm.num_batches_tracked"]
    assert counts.tolist() == [0, 1, 2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_worlds_of_all_kinds(scheme: str) -> None:
    settings = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "aggregation": scheme}
    dictionary = make_vec_env(lambda: SimpleMultiObsEnv(random_start=False, channel_last=False), n_envs=2)
    normalized = VecNormalize(make_vec_env("Pendulum-v1", 2))
    for policy, env in (("MultiInputPolicy", dictionary), ("MlpPolicy", normalized)):
        model = AggPPO(policy, env, policy_kwargs=NET, min_episodes=0, **settings).learn(32)
        assert np.isfinite(model.logger.name_to_value["agg/divergence"])


@pytest.mark.gpu
@pytest.mark.parametrize("cls", [AggPPO, AggA2C, AggMaskablePPO])
@pytest.mark.parametrize(("scheme", "kwargs"), CONTINUED)
def test_on_cuda(scheme: str, kwargs: dict[str, Any], cls: Any, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = learn(build(scheme, cls, aggregation_kwargs=kwargs, device="cuda"), 4)
    model.save(tmp_path / "model")
    for device in ("cuda", "cpu"):
        loaded = cls.load(tmp_path / "model", env=cartpoles(AGENTS), device=device)
        assert torch.equal(copies(loaded).cpu(), copies(model).cpu())
        learn(loaded, 2)


def test_waiting_for_episodes() -> None:
    env = walks({"length": 5}, {"length": 30})
    model = AggPPO("MlpPolicy", env, aggregation="actor_sum", n_steps=8, batch_size=None, min_episodes=1, device="cpu")
    model.learn(120)
    assert model.rollout_buffer.buffer_size == 30


# The ledger -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["fedavg", "fedprox"])
@pytest.mark.parametrize("interval", [1, 2])
def test_parameters_are_sent_once_a_merge(scheme: str, interval: int) -> None:
    model = build(scheme, aggregation_kwargs={"interval": interval})
    learn(model, 5)
    merges, size = 5 // interval, len(flat(model.policy))
    assert model.ledger.messages_per_agent.tolist() == [merges] * AGENTS
    assert model.ledger.bytes_of("parameters") == model.ledger.bytes == 4 * merges * AGENTS * size
    assert model.ledger.bytes_down == model.ledger.bytes
    log = model.logger.name_to_value
    assert (log["agg/messages"], log["agg/bytes"]) == (model.ledger.messages, model.ledger.bytes)
    assert log["agg/bytes_down"] == model.ledger.bytes_down
    assert (log["agg/masked_agents"], log["agg/skipped_updates"]) == (0, 0)


def test_merged_moments_are_sent_along() -> None:
    model = build("fedavg", aggregation_kwargs={"moments": "merge"})
    learn(model)
    size = len(flat(model.policy))
    assert model.ledger.bytes == 4 * AGENTS * (3 * size + 1)  # Adam's two moments, and its number of steps


@pytest.mark.parametrize("scheme", ["actor_sum", "actor_mean"])
def test_gradients_are_sent_every_step(scheme: str) -> None:
    model = build(scheme)
    learn(model, 2)
    steps, size = 2 * 2 * 4, len(flat(model.policy))
    assert model.ledger.messages_per_agent.tolist() == [steps] * AGENTS
    assert model.ledger.bytes_of("gradients") == model.ledger.bytes == model.ledger.bytes_down == 4 * steps * AGENTS * size


@pytest.mark.parametrize(("scheme", "messages"), [("fedavg", [1, 0, 1]), ("actor_sum", [8, 0, 8])])
@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_a_masked_agent_sends_nothing(scheme: str, messages: list[int]) -> None:
    broken = {"length": 4, "broken": np.nan, "broken_steps": range(99)}
    model = build(scheme, env=walks({"length": 4}, broken, {"length": 4}))
    with pytest.warns(UserWarning, match="agent 1 had"):
        learn(model)
    assert model.ledger.messages_per_agent.tolist() == messages
    size = len(flat(model.policy))
    assert model.ledger.bytes_down == 4 * size * (3 if scheme == "fedavg" else 16)


# Refusals -------------------------------------------------------------------------------------------------------------------

ATTACK = {"agents": [0], "kind": "sign_flip"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minibatches": "stock"}, "aggregation='fedavg' works with minibatches='stratified' only, got 'stock'"),
        ({"communication": "lag"}, "aggregation='fedavg' works with communication='every' only, got 'lag'"),
        ({"attack": ATTACK}, "aggregation='fedavg' works with attack=None only, got {'agents': [0]"),
        ({"use_sde": True, "env": "Pendulum-v1"}, "aggregation='fedavg' works with use_sde=False only, got True"),
        (
            {"aggregation_kwargs": {"local_epochs": [1, 2]}},
            "local_epochs must be one integer for each of 3 agents, got [1, 2]",
        ),
        ({"aggregation_kwargs": {"local_epochs": 2}}, "local_epochs must be one integer >= 0 for each agent, got 2"),
        ({"aggregation_kwargs": {"interval": 0}}, "interval must be an integer >= 1, got 0"),
        ({"aggregation_kwargs": {"moments": "drop"}}, "unknown moments 'drop'; choose from keep, merge, reset"),
        ({"aggregation_kwargs": {"mu": 0.1}}, "fedavg has no setting 'mu'; choose from interval, local_epochs, moments"),
        ({"scheme": "fedprox", "aggregation_kwargs": {"mu": -1}}, "mu must be a finite number >= 0, got -1"),
        ({"scheme": "actor_sum", "aggregation_kwargs": {"interval": 2}}, "actor_sum has no setting 'interval'"),
        ({"scheme": "actor_sum", "aggregation_kwargs": {"same_init": 1}}, "same_init must be True or False, got 1"),
        (
            {"policy_kwargs": {"optimizer_class": torch.optim.Adafactor}},
            "optimizer_class Adafactor cannot step for several agents",
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build(**settings)
    assert "\n" not in str(caught.value)


def test_recurrent_policies_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"AggRecurrentPPO does not take aggregation='fedavg'; choose from sum, mean, .*AggPPO"
    ):
        AggRecurrentPPO("MlpLstmPolicy", cartpoles(2), aggregation="fedavg", n_steps=8, batch_size=16, device="cpu")


def test_several_groups_of_parameters_are_refused() -> None:
    class TwoGroups(ActorCriticPolicy):
        def _build(self, lr_schedule: Callable[[float], float]) -> None:
            super()._build(lr_schedule)
            heads = list(self.action_net.parameters())
            rest = [parameter for parameter in self.parameters() if all(parameter is not head for head in heads)]
            self.optimizer = torch.optim.Adam([{"params": rest}, {"params": heads, "weight_decay": 1.0}], lr=lr_schedule(1))

    with pytest.raises(ValueError, match="local models need an optimiser with one group of parameters, got 2 in the policy's"):
        AggPPO(TwoGroups, cartpoles(2), aggregation="fedavg", fused_optimizer=False, device="cpu")


def test_another_number_of_environments_is_refused_by_set_env() -> None:
    with pytest.raises(AssertionError, match="number of environments"):
        build("fedavg").set_env(cartpoles(5))
