"""Loops of a user's own over minibatches, policies with more outputs, and what callbacks change while a model learns."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.nn.utils import weight_norm

from sb3_agg import AggPPO, AggregationMixin
from sb3_agg.closed_form.training import OBJECTIVES
from tests.sb3.flattened import parameters
from tests.sb3.replays import ours
from tests.sb3.worlds import cartpoles

AGENTS = 4
SETTINGS: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
ROLLOUT = AGENTS * 16
SYSTEMS = ["mean", "r_weighted", "l_weighted", "median", "fedavg"]


class Own(PPO):
    """One pass over the rollout; the subclass says which samples it learns from, and how it evaluates them."""

    def train(self) -> None:
        for samples in self.minibatches_of(self.rollout_buffer):
            self.policy.optimizer.zero_grad()
            outputs = self.evaluate(samples.observations, samples.actions.long().flatten())
            torch.autograd.backward(self.loss(samples, *outputs))
            self.after_backward(samples)
            self.policy.optimizer.step()
        self._n_updates += 1

    def minibatches_of(self, buffer: Any) -> Any:
        return buffer.get(self.batch_size)

    def evaluate(self, observations: Tensor, actions: Tensor) -> Any:
        return self.policy.evaluate_actions(observations, actions)

    def loss(self, samples: Any, values: Tensor, log_prob: Tensor, entropy: Tensor, *more: Tensor) -> Any:
        rows = len(samples.returns)
        return (values.flatten()[:rows] - samples.returns).square().mean() - (log_prob[:rows] * samples.advantages).mean()

    def after_backward(self, samples: Any) -> None:
        pass


def learn(kind: type[PPO], aggregation: str, policy: Any = "MlpPolicy", **settings: Any) -> Any:
    made: Any = type("Agg", (AggregationMixin, kind), {})
    return made(policy, cartpoles(AGENTS), aggregation=aggregation, **SETTINGS, **settings).learn(2 * ROLLOUT)


# Whose the samples are --------------------------------------------------------------------------------------------------


class Augmented(Own):
    def evaluate(self, observations: Tensor, actions: Tensor) -> Any:
        return super().evaluate(torch.cat([observations, observations * 1.01]), torch.cat([actions, actions]))


class Halved(Own):
    def evaluate(self, observations: Tensor, actions: Tensor) -> Any:
        return super().evaluate(observations[:16], actions[:16])


class Listed(Own):
    def minibatches_of(self, buffer: Any) -> Any:
        return list(super().minibatches_of(buffer))


class Reusing(Own):
    """Learns from the rollout before as well."""

    last: Any = None

    def minibatches_of(self, buffer: Any) -> Iterable[Any]:
        yield from super().minibatches_of(buffer)
        if self.last is not None:
            yield from self.last.get(self.batch_size)
        self.last = copy.copy(buffer)
        for name in ("get", "_get_samples"):
            vars(self.last).pop(name, None)


@pytest.mark.parametrize("aggregation", SYSTEMS)
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Augmented, "evaluates 64 rows, and the minibatch has 32: whose they are is unknown"),
        (Halved, "evaluates 16 rows, and the minibatch has 32"),
        (Listed, r"outside a loop over rollout_buffer.get\(\)"),
        (Reusing, r"outside a loop over rollout_buffer.get\(\)"),
    ],
)
def test_samples_of_unknown_agents_are_refused(kind: Any, message: str, aggregation: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn(kind, aggregation)


class Watching(Own):
    """Looks at its policy between the backward pass and the step, as for an early stop."""

    def after_backward(self, samples: Any) -> None:
        with torch.no_grad():
            self.evaluate(samples.observations, samples.actions.long().flatten())


@pytest.mark.parametrize("aggregation", SYSTEMS)
def test_evaluating_without_a_gradient_changes_nothing(aggregation: str) -> None:
    watched, plain = learn(Watching, aggregation), learn(Own, aggregation)
    assert torch.equal(parameters(watched), parameters(plain))


# Outputs of one's own ---------------------------------------------------------------------------------------------------


class Auxiliary(ActorCriticPolicy):
    """Has a further output, from which the loss takes its values."""

    def evaluate_actions(self, obs: Any, actions: Tensor) -> Any:
        return *super().evaluate_actions(obs, actions), self.predict_values(obs)


class ByAuxiliary(Own):
    def loss(self, samples: Any, values: Tensor, log_prob: Tensor, entropy: Tensor, *more: Tensor) -> Any:
        return super().loss(samples, *more, log_prob, entropy)


@pytest.mark.parametrize("aggregation", SYSTEMS)
def test_a_further_output_is_aggregated_as_the_others(aggregation: str) -> None:
    found, expected = learn(ByAuxiliary, aggregation, Auxiliary), learn(Own, aggregation)
    torch.testing.assert_close(parameters(found), parameters(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:There is a performance drop:UserWarning")
def test_layers_that_make_their_weight_are_evaluated_by_it() -> None:
    """The median of two agents is their mean."""

    def trained(aggregation: str) -> Tensor:
        model = AggPPO("MlpPolicy", cartpoles(2), aggregation=aggregation, **SETTINGS)
        for net in (model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net):
            weight_norm(net[0])  # of two parameters, before each call
        model.policy.optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
        return parameters(model.learn(2 * 16))

    torch.testing.assert_close(trained("median"), trained("mean"), rtol=1e-4, atol=1e-6)


def test_a_train_that_was_put_over_stocks_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before this package was imported, too, which then finds it in place of stock's."""
    calls = []
    stock = PPO.train

    def counting(self: Any) -> None:
        calls.append(self)
        stock(self)

    monkeypatch.setattr(PPO, "train", counting)
    monkeypatch.setitem(OBJECTIVES, counting, OBJECTIVES[stock])
    AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS).learn(2 * ROLLOUT)
    assert len(calls) == 2


# What changes while a model learns --------------------------------------------------------------------------------------


class At(BaseCallback):
    """Does something once, when so many steps have been made."""

    def __init__(self, num_timesteps: int, act: Any) -> None:
        super().__init__()
        self.at, self.act = num_timesteps, act

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            self.act(self.model)
        return True


@pytest.mark.parametrize(
    "setting",
    [{"aggregation": "median"}, {"interval": 4}, {"compression": "sign"}, {"attack": {"kind": "nan", "agents": [0]}}],
)
@pytest.mark.parametrize("kind", ["ppo", "dqn"])
def test_a_setting_that_a_callback_changes_in_vain_is_refused(kind: str, setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    model = AggPPO("MlpPolicy", cartpoles(AGENTS), **SETTINGS) if kind == "ppo" else ours("dqn", num_agents=AGENTS)
    with pytest.raises(ValueError, match=f"{name}=.* was set after the model had been built"):
        model.learn(4 * ROLLOUT, callback=At(ROLLOUT, lambda model: setattr(model, name, value)))


def new_policy(model: Any) -> None:
    model.policy = model.policy_class(model.observation_space, model.action_space, model.lr_schedule, **model.policy_kwargs)
    model._create_aliases()


def new_head(model: Any) -> None:
    model.q_net.q_net[-1] = nn.Linear(16, 3)
    model.policy.optimizer = torch.optim.Adam(model.q_net.parameters(), lr=1e-3)


@pytest.mark.parametrize("change", [new_policy, new_head])
@pytest.mark.parametrize(
    "settings", [{"aggregation": "median"}, {"communication": "lag"}, {"aggregation": "r_weighted"}], ids=str
)
def test_networks_that_a_callback_replaces_are_trained(settings: dict[str, Any], change: Any) -> None:
    begun = []

    def replace(model: Any) -> None:
        change(model)
        begun.append(model.q_net.q_net[-1].weight.detach().clone())

    model = ours("dqn", **settings).learn(200, callback=At(100, replace))
    assert not torch.equal(model.q_net.q_net[-1].weight, begun[0])


@pytest.mark.parametrize("settings", [{"aggregation": "median"}, {"communication": "lag"}, {"compression": "top_k"}], ids=str)
def test_layers_that_a_callback_freezes_stay_and_the_others_learn(settings: dict[str, Any]) -> None:
    before: list[Tensor] = []

    def freeze(model: Any) -> None:
        first, last = model.q_net.q_net[0], model.q_net.q_net[-1]
        first.requires_grad_(False)
        before.extend(layer.weight.detach().clone() for layer in (first, last))

    model = ours("dqn", **settings).learn(200, callback=At(100, freeze))
    assert torch.equal(model.q_net.q_net[0].weight, before[0])
    assert not torch.equal(model.q_net.q_net[-1].weight, before[1])


class WithoutOptimizer(AggPPO):
    """Its files are to act with."""

    def _get_torch_save_params(self) -> Any:
        return ["policy"], []


@pytest.mark.parametrize("settings", [{"communication": "lag"}, {"compression": "sign"}, {"aggregation": "fedavg"}], ids=str)
def test_a_file_without_the_optimiser_acts(settings: dict[str, Any]) -> None:
    model = WithoutOptimizer("MlpPolicy", cartpoles(AGENTS), **settings, **SETTINGS).learn(ROLLOUT)
    file = io.BytesIO()
    model.save(file)
    observations: Any = cartpoles(AGENTS).reset()
    file.seek(0)
    expected, _ = model.predict(observations, deterministic=True)
    found, _ = WithoutOptimizer.load(file, device="cpu").predict(observations, deterministic=True)
    assert (found == expected).all()
