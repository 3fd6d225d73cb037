"""Which agents transmit, what it costs, and attacks, on any number of learners; a restored run continues with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from torch import Tensor

from rl_agg.attacks import Attack
from rllib_agg import AggPPO, AggPPOConfig
from rllib_agg.aggregation.agents import AGENT, agent_of
from rllib_agg.aggregation.learner_group import AggLearnerGroup
from tests.rllib.groups import MODULE, UPDATE, configure, gradients, on_each, plain, start_group
from tests.rllib.ppo_configs import tiny_ppo
from tests.rllib.separate_gradients import NUM_AGENTS, flat, separate_gradients

cloudpickle.register_pickle_by_value(sys.modules[__name__])

EVERY = {"communication": "every", "communication_kwargs": {}, "attack": None}


@pytest.fixture(scope="module", params=[0, pytest.param(2, marks=pytest.mark.remote)], ids="learners{}".format)
def group(request: pytest.FixtureRequest, spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    group = start_group(spaces, request.param, aggregation="median", advantage_norm="none")
    group.config.shard_by_agent = True  # so that samples stay what they are when an agent is left out
    group.start = group.get_state()
    yield group
    group.shutdown()


def start_over(group: AggLearnerGroup, **training: Any) -> None:
    group.set_state(group.start)
    configure(group, **{"aggregation_kwargs": {}, **EVERY, **training})


def weights_of(group: AggLearnerGroup) -> dict[str, Any]:
    return on_each(group, lambda learner: learner.module[MODULE].unwrapped().get_state())[0]


def num_parameters(group: AggLearnerGroup) -> int:
    return on_each(group, lambda learner: sum(p.numel() for p in learner.module[MODULE].unwrapped().parameters()))[0]


def updates(group: AggLearnerGroup, sample: Callable[[], list[Any]], number: int) -> dict[str, float]:
    """Updates of two epochs and three minibatches each; what the last one logged."""
    for _ in range(number):
        results = group.update(episodes=sample(), num_epochs=2, minibatch_size=64, timesteps={})
    return {name: float(stats.peek()) for name, stats in results[0][MODULE]["agg"].items()}


@pytest.mark.parametrize("rule", ["median", "l_weighted"])
def test_lag_that_lets_everyone_send(rule: str, group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """To the bit, where the same matrix is merged; a rule's one backward pass is rounded otherwise."""
    start_over(group, aggregation=rule)
    everyone = updates(group, sample, 3)
    expected = weights_of(group)
    start_over(group, aggregation=rule, communication="lag", communication_kwargs={"xi": 0})
    lazy = updates(group, sample, 3)
    compare = np.testing.assert_array_equal if rule == "median" else assert_near
    for name, value in weights_of(group).items():
        compare(value, expected[name])
    assert lazy["messages"] == everyone["messages"]


def assert_near(actual: Any, expected: Any) -> None:
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_lag_is_written_out(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    """With an optimiser that has no moments, so that both sides of the bound are the gradients themselves."""
    config = tiny_ppo(
        aggregation="mean",
        communication="lag",
        communication_kwargs={"xi": 0.1, "window": 2},
        advantage_norm="none",
        use_kl_loss=False,
    )
    config.validate()
    learner = config.build_learner(spaces=spaces)
    matrices: list[Tensor] = []
    ((_, optimizer),) = learner.optimizers()
    optimizer.step = lambda: None
    merge = learner.aggregator(MODULE).exchange.merge

    def noisy(gradients: Tensor, signals: Any, **kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(len(matrices))
        noise = torch.randn(gradients.shape, generator=generator) * torch.arange(NUM_AGENTS)[:, None]
        matrices.append(gradients + 0.01 * gradients.abs().mean() * noise)
        return merge(matrices[-1], signals, **kwargs)

    learner.aggregator(MODULE).exchange.merge = noisy
    sent, steps, messages = None, [], 0
    for _ in range(6):
        result = learner.update(episodes=sample(), timesteps={})
        matrix = matrices[-1]
        bound = 0.1 * sum(float(step.square().sum()) for step in steps[-2:])
        sends = [sent is None or float((matrix[a] - sent[a]).square().sum()) >= bound for a in range(NUM_AGENTS)]
        sent = torch.stack([matrix[a] if sends[a] else sent[a] for a in range(NUM_AGENTS)])
        steps.append(sent.mean(0))
        messages += sum(sends)
        assert result[MODULE]["agg"]["messages"].peek() == messages
        actual = torch.cat([parameter.grad.flatten() for parameter in learner.module[MODULE].parameters()])
        torch.testing.assert_close(actual, steps[-1], rtol=1e-4, atol=1e-6)
    assert 0 < messages < 6 * NUM_AGENTS


@pytest.mark.parametrize("kind", ["sign_flip", "scale"])
def test_attack_changes_what_is_merged(
    kind: str, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    start_over(group, aggregation="mean", attack={"kind": kind, "agents": [1, 3], "scale": 4.0})
    matrix = separate_gradients(group, sample(), spaces)
    matrix[[1, 3]] *= -4.0 if kind == "sign_flip" else 4.0
    group.update(episodes=sample(), **UPDATE)
    for learner in gradients(group):
        torch.testing.assert_close(flat(learner), matrix.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "median", "krum"])
def test_attacker_without_a_number_is_masked(
    aggregation: str, group: AggLearnerGroup, sample: Callable[[], list[Any]]
) -> None:
    start_over(group, aggregation=aggregation, attack=Attack("nan", [2]))
    logged = updates(group, sample, 1)
    attacked = weights_of(group)
    assert (logged["masked_agents"], logged["skipped_updates"]) == (1, 0)
    start_over(group, aggregation=aggregation, attack=Attack("scale", [0]))  # changes nothing, the same way
    group.update(
        episodes=[episode for episode in sample() if agent_of(episode) != 2], num_epochs=1, minibatch_size=None, timesteps={}
    )
    without = flat(gradients(group)[0])
    start_over(group, aggregation=aggregation, attack=Attack("nan", [2]))
    group.update(episodes=sample(), **UPDATE)
    if aggregation != "krum":  # which knows that one is masked, and so bears one less among the others
        torch.testing.assert_close(flat(gradients(group)[0]), without, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(value).all() for value in attacked.values())


def test_agent_that_is_no_number_by_itself_is_masked(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """Its NaN reaches the other agents' backward passes, so that these are done again without it."""
    start_over(group, aggregation="median")
    group.update(episodes=[episode for episode in sample() if agent_of(episode) != 2], **UPDATE)
    without = flat(gradients(group)[0])
    start_over(group, aggregation="median")
    episodes = sample()
    broken = max((episode for episode in episodes if agent_of(episode) == 2), key=len)
    broken.extra_model_outputs["action_logp"].data[0] = -200.0  # a probability ratio of infinity
    broken.rewards.data[0] = 50.0
    results = group.update(episodes=episodes, **UPDATE)
    assert results[0][MODULE]["agg"]["masked_agents"].peek() == 1
    torch.testing.assert_close(flat(gradients(group)[0]), without, rtol=1e-4, atol=1e-5)


def test_no_agent_left_skips_the_step(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, aggregation="median", attack=Attack("nan", list(range(NUM_AGENTS))))
    before = weights_of(group)
    logged = updates(group, sample, 1)
    np.testing.assert_equal(weights_of(group), before)
    assert logged["masked_agents"] == NUM_AGENTS
    assert logged["messages"] == 0
    assert logged["skipped_updates"] > 0


@pytest.mark.parametrize(("rule", "num_scalars"), [("median", 0), ("samples", 1), ("r_weighted", 1), ("mean", 0)])
def test_ledger_counts_every_gradient_and_every_answer(
    rule: str, num_scalars: int, group: AggLearnerGroup, sample: Callable[[], list[Any]]
) -> None:
    """Three epochs without minibatches: every agent sends three gradients and is sent the weights as often."""
    start_over(group, aggregation=rule)
    size = num_parameters(group)
    results = group.update(episodes=sample(), num_epochs=3, minibatch_size=None, timesteps={})
    for result in results:
        logged = {name: stats.peek() for name, stats in result[MODULE]["agg"].items()}
        assert logged["messages"] == 3 * NUM_AGENTS
        assert logged["bytes"] == 3 * NUM_AGENTS * 4 * (size + num_scalars)
        assert logged["bytes_down"] == 3 * NUM_AGENTS * 4 * size
        assert "physical_bytes" not in logged
    ledgers = on_each(group, lambda learner: learner.aggregator(MODULE).exchange.ledger.state_dict())
    assert all(ledger == ledgers[0] for ledger in ledgers)
    assert ledgers[0]["messages"] == [3] * NUM_AGENTS


def test_ledger_counts_the_agents_of_each_minibatch(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, aggregation="mean")
    group.update(episodes=[episode for episode in sample() if agent_of(episode) in {0, 4}], **UPDATE)
    ledger = on_each(group, lambda learner: learner.aggregator(MODULE).exchange.ledger)[0]
    assert ledger.messages_per_agent.tolist() == [1, 0, 0, 0, 1]
    assert ledger.bytes_down == NUM_AGENTS * 4 * num_parameters(group)  # all act by the answer


def test_ledger_counts_minibatches_that_an_agent_is_not_in(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    """Minibatches of two samples in the order of the episodes: an agent is in few of them, and is answered after each."""
    config = tiny_ppo(aggregation="mean")
    config.validate()
    learner = config.build_learner(spaces=spaces)
    rows = learner.make_batch(sample())[MODULE]
    steps = [set(rows[AGENT][i : i + 2][rows["loss_mask"][i : i + 2]].tolist()) for i in range(0, len(rows[AGENT]) - 1, 2)]
    learner.update(episodes=sample(), num_epochs=1, minibatch_size=2, num_total_minibatches=len(steps), timesteps={})
    ledger = learner.aggregator(MODULE).exchange.ledger
    assert ledger.messages_per_agent.tolist() == [sum(agent in step for step in steps) for agent in range(NUM_AGENTS)]
    assert ledger.bytes_down == len(steps) * NUM_AGENTS * 4 * 107


def lazy_ppo() -> AggPPOConfig:
    lag = {"communication": "lag", "communication_kwargs": {"xi": 0.05}}
    return tiny_ppo(aggregation="mixtailor", attack={"kind": "random", "agents": [1]}, **lag)


def learner_of(algorithm: AggPPO) -> Any:
    return algorithm.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()


def test_restored_run_continues_to_the_bit(ray_session: None, sample: Callable[[], list[Any]], tmp_path: Path) -> None:
    algorithm = lazy_ppo().build_algo()
    for _ in range(3):
        result = algorithm.train()
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    restored = AggPPO.from_checkpoint(path)
    saved = plain(learner_of(algorithm).get_state()["aggregation"])
    np.testing.assert_equal(plain(learner_of(restored).get_state()["aggregation"]), saved)
    assert result["learners"][MODULE]["agg"]["messages"] == sum(saved["modules"][MODULE]["exchange"]["ledger"]["messages"])
    for one in (algorithm, restored):
        for _ in range(3):
            logged = learner_of(one).update(episodes=sample(), timesteps={})[MODULE]["agg"]
        one.counted = logged["messages"].peek()
    for part in ("rl_module", "optimizer", "aggregation"):
        np.testing.assert_equal(plain(learner_of(restored).get_state()[part]), plain(learner_of(algorithm).get_state()[part]))
    assert restored.counted == algorithm.counted < 6 * NUM_AGENTS
    algorithm.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(plain(learner_of(algorithm).get_state()["aggregation"]), saved)
    algorithm.stop()
    restored.stop()


def test_restored_learners_share_what_one_of_them_saved(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, aggregation="median", communication="lag", communication_kwargs={"xi": 0.05})
    updates(group, sample, 2)
    state = group.get_state()
    updates(group, sample, 2)
    expected = weights_of(group)
    group.set_state(state)
    updates(group, sample, 2)
    np.testing.assert_equal(weights_of(group), expected)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"communication": "lagg"}, r"unknown communication 'lagg' \(did you mean 'lag'\?\)"),
        ({"communication": "lag", "communication_kwargs": {"xi": -1}}, "xi must be a finite number >= 0, got -1"),
        ({"communication": "lag", "communication_kwargs": {"zeta": 1}}, "lag has no setting 'zeta'; choose from window, xi"),
        ({"communication_kwargs": {"xi": 1}}, "every has no setting 'xi', which is one of communication 'lag'"),
        ({"communication_kwargs": "xi"}, "communication_kwargs must be a dict, got 'xi'"),
        ({"attack": {"kind": "sign_flop", "agents": [0]}}, r"unknown attack 'sign_flop' \(did you mean 'sign_flip'"),
        ({"attack": {"kind": "nan"}}, "attack needs 'agents'"),
        ({"attack": {"kind": "nan", "agents": [5]}}, "agent 5 cannot attack: agents are numbered 0 to 4"),
        ({"attack": "nan"}, "attack must be an Attack or a dict of its settings, got 'nan'"),
    ],
)
def test_bad_settings(training: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**training).build_algo()
