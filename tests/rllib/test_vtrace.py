"""IMPALA and APPO, whose losses run over time, weigh agents as exactly as PPO does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from torch import Tensor

from rl_agg import Signals, combine, weights
from rllib_agg import AggAPPOConfig, AggIMPALAConfig
from rllib_agg.aggregation.agents import AGENT, agent_of
from rllib_agg.aggregation.masking import MaskCorruptAgents
from tests.rllib.ppo_configs import TINY
from tests.rllib.results import MODULE, agg_of_first_update

T = 10
CONFIGS = [(AggIMPALAConfig, IMPALAConfig), (AggAPPOConfig, APPOConfig)]


def build(config_class: type, spaces: dict[str, Any], **training: Any) -> Any:
    config = config_class().environment("CartPole-v1").rl_module(model_config=TINY)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=5, rollout_fragment_length=T).learners(num_learners=0)
    if issubclass(config_class, APPOConfig):
        training["use_kl_loss"] = True
    return config.training(**training).build_learner(spaces=spaces)


@pytest.fixture
def fragments(sample: Callable[[], list[Any]]) -> list[Any]:
    """Nine steps of each agent, which the bootstrap step makes ten: no row of V-trace holds two agents."""
    longest = {}
    for episode in sample():
        longest[agent_of(episode)] = max(longest.get(agent_of(episode), episode), episode, key=len)
    return [episode[: T - 1] for episode in longest.values()]


def gradient(learner: Any, loss: Tensor) -> dict[str, Tensor]:
    parameters = {name: p for name, p in learner.module[MODULE].named_parameters() if p.requires_grad}
    parts = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, parts, strict=True))


def loss_of(learner: Any, batch: dict[str, Any]) -> Tensor:
    return learner.compute_loss_for_module(
        module_id=MODULE, config=learner.config, batch=batch, fwd_out=learner.module[MODULE].forward_train(batch)
    )


@pytest.mark.parametrize("rule", ["sum", "mean", "r_weighted", "l_weighted", "samples"])
@pytest.mark.parametrize(("ours", "stock"), CONFIGS)
def test_gradient_is_the_weighted_sum_of_separate_backwards(
    ours: type, stock: type, rule: str, spaces: dict[str, Any], fragments: list[Any]
) -> None:
    learner, reference = build(ours, spaces, aggregation=rule), build(stock, spaces)
    reference.module.set_state(learner.module.get_state())
    batch = learner.make_batch(fragments)[MODULE]
    agents = batch[AGENT].unique().tolist()
    returns = torch.full((5,), torch.nan, dtype=torch.float64)
    returns[agents] = torch.arange(1.0, len(agents) + 1, dtype=torch.float64)
    learner.aggregator(MODULE).returns = returns

    losses, parts = [], []
    for agent in agents:
        own = {name: column[batch[AGENT] == agent] for name, column in batch.items()}
        loss = loss_of(reference, own)
        losses.append(loss.item())
        parts.append(gradient(reference, loss))
    counts = [float(batch[Columns.LOSS_MASK][batch[AGENT] == agent].sum()) for agent in agents]
    w = weights(rule, Signals(returns=returns[agents], losses=losses, num_samples=counts))
    for name, actual in gradient(learner, loss_of(learner, batch)).items():
        expected = sum(weight * part[name] for weight, part in zip(w, parts, strict=True))
        torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "stock"), CONFIGS)
def test_combined_gradient_is_that_of_separate_backwards(
    ours: type, stock: type, spaces: dict[str, Any], fragments: list[Any]
) -> None:
    learner, reference = build(ours, spaces, aggregation="median"), build(stock, spaces)
    reference.module.set_state(learner.module.get_state())
    batch = learner.make_batch(fragments)[MODULE]
    rows = []
    for agent in batch[AGENT].unique().tolist():
        own = {name: column[batch[AGENT] == agent] for name, column in batch.items()}
        rows.append(torch.cat([part.flatten() for part in gradient(reference, loss_of(reference, own)).values()]))
    actual = torch.cat([part.flatten() for part in masked_gradient(learner, batch)])
    torch.testing.assert_close(actual, combine("median", torch.stack(rows)), rtol=1e-5, atol=1e-5)
    assert learner.aggregator(MODULE).exchange.ledger.messages == len(rows)


@pytest.mark.parametrize(("ours", "stock"), CONFIGS)
def test_samples_is_stock_however_the_rows_fall(
    ours: type, stock: type, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    learner, reference = build(ours, spaces, aggregation="samples"), build(stock, spaces)
    reference.module.set_state(learner.module.get_state())
    batch = learner.make_batch(sample())[MODULE]
    learner.aggregator(MODULE).returns = torch.full((5,), torch.nan, dtype=torch.float64)
    ours_loss, stock_loss = loss_of(learner, copy.copy(batch)), loss_of(reference, batch)
    torch.testing.assert_close(ours_loss, stock_loss, rtol=1e-5, atol=1e-5)
    report = {name: float(value) for name, value in learner.reports[MODULE]().items()}
    logged = {name: torch.as_tensor(reference.metrics.peek((MODULE, name))).item() for name in report}
    assert report == pytest.approx(logged, rel=1e-4, abs=1e-6)
    expected = gradient(reference, stock_loss)
    for name, actual in gradient(learner, ours_loss).items():
        torch.testing.assert_close(actual, expected[name], rtol=1e-4, atol=1e-5)


def nan_reward(batch: dict[str, Any], first: int) -> None:
    batch[Columns.REWARDS][first + 2] = torch.nan


def overflowing_loss(batch: dict[str, Any], first: int) -> None:
    """Finite data with an infinite loss."""
    batch[Columns.REWARDS][first + 2] = 1e30


@pytest.mark.parametrize("fault", [nan_reward, overflowing_loss])
@pytest.mark.parametrize(("ours", "stock"), CONFIGS)
def test_one_corrupt_agent_is_masked(
    ours: type, stock: type, fault: Callable[..., None], spaces: dict[str, Any], fragments: list[Any]
) -> None:
    learner = build(ours, spaces, aggregation="l_weighted")
    batch = learner.make_batch(fragments)[MODULE]
    bad = batch[AGENT].unique()[1]
    others = {name: column[batch[AGENT] != bad] for name, column in batch.items()}
    expected = masked_gradient(learner, others)
    assert not learner.aggregator(MODULE).masked.any()
    fault(batch, first=int((batch[AGENT] == bad).nonzero()[0]))
    actual = masked_gradient(learner, batch)
    assert learner.aggregator(MODULE).masked.nonzero().flatten().tolist() == [bad]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def masked_gradient(learner: Any, data: dict[str, Any]) -> list[Tensor]:
    """What an update would step with; RLlib's own update of these learners runs in a thread."""
    masked = MaskCorruptAgents()(batch={MODULE: {name: column.clone() for name, column in data.items()}})
    batch = MultiAgentBatch({MODULE: SampleBatch(masked[MODULE])}, env_steps=1)
    learner.observe_batch(batch)
    losses = learner.compute_losses(fwd_out=learner.module.forward_train(batch.policy_batches), batch=batch.policy_batches)
    gradients = learner.compute_gradients(losses)
    assert not learner.unfit_modules
    return [gradient.clone() for gradient in gradients.values() if gradient is not None]


@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
@pytest.mark.parametrize("scheme", ["fedavg", "fedprox"])
def test_local_models_are_refused(config_class: type, scheme: str) -> None:
    config = config_class().environment("CartPole-v1").learners(num_learners=2).training(aggregation=scheme)
    with pytest.raises(ValueError, match=r"payload 'parameters' merges learners .* update whenever.*Use AggPPOConfig"):
        config.validate()


def test_too_small_batches_for_two_learners_are_refused() -> None:
    config = AggIMPALAConfig().environment("CartPole-v1").learners(num_learners=2).training(train_batch_size_per_learner=20)
    with pytest.raises(ValueError, match="40 steps is 1 fragments of 50, too few for 2 learners"):
        config.validate()


def test_several_policies_on_two_learners_are_refused() -> None:
    config = AggAPPOConfig().environment("CartPole-v1").learners(num_learners=2)
    config.multi_agent(policies={"a", "b"}, policy_mapping_fn=lambda *args, **kwargs: "a")
    with pytest.raises(ValueError, match="several policies on one learner only"):
        config.validate()


@pytest.mark.parametrize("unit", ["episodes", "timesteps"])
def test_evaluation_is_not_taken_for_training(unit: str) -> None:
    config = AggIMPALAConfig().environment("CartPole-v1").learners(num_learners=2)
    config.evaluation(evaluation_interval=1, evaluation_duration=10_000, evaluation_duration_unit=unit)
    config.validate()
    config.get_evaluation_config_object().validate()


@pytest.mark.slow
@pytest.mark.parametrize("num_learners", [0, 1, 2])
@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_trains(config_class: type, num_learners: int, ray_session: None) -> None:
    """IMPALA on one remote learner also trains in tests/rllib/test_faults.py."""
    config = (
        config_class()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=2, rollout_fragment_length=T)
        .rl_module(model_config=TINY)
        .learners(num_learners=num_learners)
        .training(aggregation="l_weighted", train_batch_size_per_learner=40)
        .reporting(min_time_s_per_iteration=1)
    )
    algorithm = config.build_algo()
    logged = agg_of_first_update(algorithm)
    algorithm.stop()
    assert logged["weight_max"] >= logged["weight_min"] > 0
    assert logged["skipped_updates"] == 0
