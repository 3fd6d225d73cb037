"""Agents with parameters of their own are models trained alone, and averaged or summed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO
from tests.sb3.flattened import flat
from tests.sb3.local_runs import AGENTS, NET, STEPS, STOCK, Alone, build, copies, learn, of_agent, recorded, write
from tests.sb3.worlds import walks

# FedAvg and FedProx ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize(
    ("cls", "env", "settings"),
    [
        (AggPPO, "CartPole-v1", {}),
        (AggPPO, "Pendulum-v1", {"ent_coef": 0.01, "clip_range_vf": 0.2}),
        (AggPPO, "Pendulum-v1", {"batch_size": None}),
        (AggPPO, "Pendulum-v1", {"use_sde": True}),
        (AggA2C, "Pendulum-v1", {"use_sde": True, "sde_sample_freq": 4}),
        (AggA2C, "CartPole-v1", {"ent_coef": 0.01}),
        (AggA2C, "Pendulum-v1", {}),
        (AggMaskablePPO, "CartPole-v1", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:.* acts by gSDE")
def test_fedavg_is_models_trained_alone_and_averaged(cls: Any, env: str, settings: dict[str, Any], mu: float) -> None:
    """Two rounds, so that moments outlive a merge."""
    kwargs = {"mu": mu} if mu else {}
    scheme = "fedprox" if mu else "fedavg"
    learning = {"normalize_advantage": False, "learning_rate": 0.003, **settings}
    start, model = build("mean", cls, env, **learning).policy, build(scheme, cls, env, aggregation_kwargs=kwargs, **learning)
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


def test_moments_of_agents_that_do_not_send_stay_their_own() -> None:
    """They would come with the message."""
    gate = {"communication": "lag", "communication_kwargs": {"xi": 1e9}}
    model = build(aggregation_kwargs={"moments": "merge"}, **gate)
    for update in range(3):
        learn(model, reset_num_timesteps=not update)
        assert model.ledger.messages == AGENTS
        (moments,) = (state["exp_avg"] for state in model._local_models.optimizer._optimizer.state.values())
        assert bool((moments == moments[:1]).all()) == (update == 0)


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
