"""Local models where data is broken, and settings that they refuse."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flattened import flat
from local_runs import AGENTS, SCHEMES, build, copies, learn, recorded, write
from stable_baselines3.common.policies import ActorCriticPolicy
from worlds import cartpoles, walks

from sb3_agg import AggPPO, AggRecurrentPPO
from sb3_agg.rollouts.minibatches import Minibatches

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
