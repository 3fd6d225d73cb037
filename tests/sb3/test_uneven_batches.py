"""Any number of environments: minibatches hold equally many samples of each agent, whatever ``batch_size`` is."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from sb3_agg import AggA2C, AggPPO, AggRecurrentPPO
from sb3_agg.rollouts.minibatches import cut
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import AGENTS, Owners, Step, build, check_every_step
from tests.sb3.test_gradients import expected_weights
from tests.sb3.worlds import cartpoles

pytestmark = pytest.mark.filterwarnings("ignore:.*batch_size", "ignore:You have specified a mini-batch size")


def watch(model: Any) -> list[tuple[Any, torch.Tensor]]:
    """The minibatches that are served from now on, and the agent of each of their samples ``[B]``."""
    served: list[tuple[Any, torch.Tensor]] = []

    class Watched(type(model).minibatches_class):  # type: ignore[misc]
        def _get_stratified(self, batch_size: int | None = None) -> Any:
            for samples in super()._get_stratified(batch_size):
                served.append((samples, Owners(model)(samples)))
                yield samples

    model.minibatches_class = Watched
    return served


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize(("agents", "steps"), [(3, 64), (5, 64), (6, 50), (7, 10), (12, 23), (65, 2), (128, 2), (5, 100)])
def test_default_batches_hold_every_sample_once_and_equally_many_of_each_agent(
    agents: int, steps: int, closed_form: bool
) -> None:
    model = AggPPO("MlpPolicy", cartpoles(agents), n_steps=steps, n_epochs=2, seed=0, device="cpu", closed_form=closed_form)
    served = watch(model)
    model.learn(agents * steps)
    counts = torch.stack([torch.bincount(owners, minlength=agents) for _, owners in served])  # [minibatches, A]
    assert (counts == counts[:, :1]).all()
    assert counts.max() - counts.min() <= 1
    assert len(served) == 2 * min(steps, math.ceil(agents * steps / model.batch_size))
    for epoch in (served[: len(served) // 2], served[len(served) // 2 :]):
        seen = [key for samples, _ in epoch for key in Owners.keys(samples.old_log_prob, samples.returns)]
        assert len(seen) == len(set(seen)) == agents * steps


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 64, 100, 10_000])
@pytest.mark.parametrize("agents", [1, 3, 8])
@pytest.mark.parametrize("steps", [1, 5, 64])
def test_cuts_are_within_the_rollout_and_in_order(steps: int, agents: int, batch_size: int | None) -> None:
    lengths = np.diff([0, *cut(steps, agents, batch_size), steps])
    assert (lengths > 0).all()
    if batch_size is not None and batch_size % agents == 0:
        assert (lengths[:-1] == batch_size // agents).all()
        assert lengths[-1] <= batch_size // agents or len(lengths) == 1
    else:
        assert np.ptp(lengths) <= 1
        assert agents * lengths.min() <= max(agents, batch_size or math.inf)


@pytest.mark.parametrize("batch_size", [7, 17])
@pytest.mark.parametrize("rule", ["sum", "r_weighted", "l_weighted"])
@pytest.mark.parametrize("setup", ["discrete", pytest.param("recurrent", marks=pytest.mark.slow)])
def test_weights_of_uneven_batches_are_exact(setup: str, rule: str, batch_size: int) -> None:
    model = build(setup, aggregation=rule, batch_size=batch_size, n_steps=32)

    def expected(step: Step) -> torch.Tensor:
        return torch.as_tensor(expected_weights(rule, step.losses, model.agent_returns)).float() @ step.gradients

    check_every_step(model, expected, 2 * model.n_epochs * min(32, math.ceil(AGENTS * 32 / batch_size)))


@pytest.mark.parametrize("aggregation", ["median", "fedavg", "actor_mean"])
@pytest.mark.parametrize("closed_form", [True, False])
def test_every_kind_of_update_takes_uneven_batches(aggregation: str, closed_form: bool) -> None:
    model = AggPPO(
        "MlpPolicy",
        cartpoles(6),
        aggregation=aggregation,
        n_steps=32,
        n_epochs=2,
        seed=0,
        device="cpu",
        closed_form=closed_form,
    )
    before = parameters(model)
    model.learn(2 * 6 * 32)
    assert (model.why_no_closed_form is None) == closed_form
    assert torch.isfinite(parameters(model)).all()
    assert not torch.equal(parameters(model), before)


def test_it_is_told_once_with_the_sizes_that_divide() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = AggPPO("MlpPolicy", cartpoles(6), n_steps=32, seed=0, device="cpu")
        for _ in range(2):
            model.learn(192)
    (message,) = [str(warning.message) for warning in caught if "split" in str(warning.message)]
    assert message.startswith("batch_size=64 does not split evenly among 6 agents")
    assert "choose 60 or 66 for" in message
    assert "minibatches='stock'" in message


@pytest.mark.parametrize("settings", [{"batch_size": 60}, {"batch_size": None}, {"minibatches": "stock"}])
def test_sizes_that_divide_are_not_told_of(settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="batch_size")
        AggPPO("MlpPolicy", cartpoles(6), n_steps=30, seed=0, device="cpu", **settings).learn(180)


def test_longer_rollouts_are_cut_likewise() -> None:
    model = AggPPO("MlpPolicy", cartpoles(5), aggregation="r_weighted", n_steps=16, min_episodes=2, seed=0, device="cpu")
    served = watch(model)
    lengths: list[int] = []

    class Length(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            lengths.append(model.rollout_buffer.buffer_size)

    model.learn(600, callback=Length())
    assert max(lengths) > 16
    assert sum(len(owners) for _, owners in served) == sum(lengths) * 5 * model.n_epochs


@pytest.mark.parametrize("kind", [AggA2C, AggRecurrentPPO])
def test_other_algorithms_take_seven_environments(kind: Any) -> None:
    policy = "MlpLstmPolicy" if kind is AggRecurrentPPO else "MlpPolicy"
    kwargs = {"policy_kwargs": {"lstm_hidden_size": 4}, "n_epochs": 1} if kind is AggRecurrentPPO else {}
    model = kind(policy, cartpoles(7), aggregation="r_weighted", n_steps=40, seed=0, device="cpu", **kwargs).learn(560)
    assert np.isfinite(model.agent_weights).all()
