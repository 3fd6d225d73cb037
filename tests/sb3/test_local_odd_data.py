"""Local models where data is broken, and settings that they refuse."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from sb3_agg.rollouts.minibatches import Minibatches
from tests.sb3.flattened import flat
from tests.sb3.local_runs import SCHEMES, build, copies, learn, own_state, recorded, write
from tests.sb3.worlds import cartpoles, walks

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
    two.set_parameters({"policy": write(two.policy, start).state_dict()}, exact_match=False)
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
    before, moments = copies(model), copy.deepcopy(own_state(model.get_parameters())["optimizer"])
    overflow(model, agents=[1])
    model.train()
    after = copies(model)
    assert torch.equal(after[1], before[1])
    assert not torch.equal(after[0], before[0])
    assert torch.isfinite(after).all()
    state = own_state(model.get_parameters())["optimizer"]["state"]
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
    state = model.get_parameters()
    own_state(state)["copies"][0, 0] = torch.inf
    model.set_parameters(state)
    learn(model, reset_num_timesteps=False)
    assert torch.isfinite(copies(model)).all()
    assert model.ledger.messages_per_agent.tolist() == [1, 2, 2]


# Refusals -------------------------------------------------------------------------------------------------------------------


def test_another_number_of_environments_is_refused_by_set_env() -> None:
    with pytest.raises(AssertionError, match="number of environments"):
        build("fedavg").set_env(cartpoles(5))
