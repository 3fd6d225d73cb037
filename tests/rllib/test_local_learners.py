"""Exchanged parameters, each learner an agent: as independent learners whose parameters are averaged by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner

from rl_agg.local_schemes import FedAvg
from rl_agg.payloads import Parameters
from rllib_agg import AggPPO, AggPPOConfig
from rllib_agg.aggregation.agents import agent_of
from rllib_agg.aggregation.learner_group import AgentTrainingData, AggLearnerGroup
from tests.rllib.groups import MODULE, configure, on_each, start_group
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.remote

Weights = dict[str, NDArray[np.float32]]
SETTINGS = {"aggregation": "fedavg", "advantage_norm": "stock", "use_kl_loss": False, "num_epochs": 3, "lr": 1e-3}
DEFAULTS: dict[str, Any] = {
    "aggregation_kwargs": {},
    "communication": "every",
    "communication_kwargs": {},
    "compression": "identity",
    "payload": "gradients",
    "interval": 1,
    "attack": None,
}
EPOCHS = {"num_epochs": 3, "minibatch_size": 32, "timesteps": {}}


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3], ids="learners{}".format)
def group(request: pytest.FixtureRequest, spaces: dict[str, Any]) -> Iterator[AggLearnerGroup]:
    group = start_group(spaces, request.param, **SETTINGS)
    group.start = group.get_state()
    yield group
    group.shutdown()


def start_over(group: AggLearnerGroup, **training: Any) -> None:
    configure(group, **{**DEFAULTS, **SETTINGS, **training})
    group.config.shard_by_agent = False
    group.set_state(group.start)


def own_weights(group: AggLearnerGroup) -> list[Weights]:
    """What each learner really holds."""

    def read(learner: Any) -> Weights:
        module = learner.module[MODULE].unwrapped()
        return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}

    return on_each(group, read)


def shards_of(episodes: list[Any], group: AggLearnerGroup) -> list[list[Any]]:
    data = AgentTrainingData(episodes, by_agent=group.config.shard_by_agent, local=True)
    return [part.episodes for part, _ in data.shard(len(group), 0, num_epochs=1, minibatch_size=None)]


class Clients:
    """RLlib's own PPO learners, each alone with its shard, and an average taken by hand."""

    def __init__(self, group: AggLearnerGroup, spaces: dict[str, Any]) -> None:
        config = PPOConfig().environment("CartPole-v1").rl_module(model_config=dict(tiny_ppo().model_config))
        config.training(use_kl_loss=False, lr=1e-3).learners(num_learners=0)
        self.learners = [config.copy(copy_frozen=False).build_learner(spaces=spaces) for _ in range(len(group))]
        assert {type(learner) for learner in self.learners} == {PPOTorchLearner}
        for learner in self.learners:
            learner.module.set_state(group.get_weights())

    def update(self, shards: list[list[Any]], **settings: Any) -> None:
        for learner, episodes in zip(self.learners, shards, strict=True):
            learner.update(episodes=episodes, **{**EPOCHS, **settings})

    def weights(self) -> list[Weights]:
        states = [learner.module[MODULE].state_dict() for learner in self.learners]
        return [{name: value.numpy().copy() for name, value in state.items()} for state in states]

    def merge(self, num_samples: list[int]) -> Weights:
        shares = np.array(num_samples) / sum(num_samples)
        own = self.weights()
        merged = {name: sum(s * w[name] for s, w in zip(shares, own, strict=True)) for name in own[0]}
        for learner in self.learners:
            learner.module[MODULE].load_state_dict({name: torch.tensor(value).float() for name, value in merged.items()})
        return merged


def assert_near(actual: Weights, expected: Weights) -> None:
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-6)


def assert_equal_learners(group: AggLearnerGroup) -> Weights:
    first, *others = own_weights(group)
    for other in others:
        np.testing.assert_equal(other, first)
    return first


def unequal(episodes: list[Any]) -> list[Any]:
    """Agent 0 has fewer samples than the others."""
    return [episode[:3] if agent_of(episode) == 0 and not episode.is_done else episode for episode in episodes]


@pytest.mark.parametrize("by_agent", [True, False], ids=["whole_agents", "sliced"])
@pytest.mark.parametrize("interval", [1, 2])
def test_as_learners_that_are_alone_and_averaged(
    interval: int, by_agent: bool, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    """Two merges, with Adam's moments kept."""
    start_over(group, aggregation_kwargs={"interval": interval})
    group.config.shard_by_agent = by_agent
    alone = Clients(group, spaces)
    for _ in range(2):
        num_samples = [0] * len(group)
        for update in range(interval):
            episodes = (lambda: unequal(sample())) if update == 0 else sample
            shards = shards_of(episodes(), group)
            num_samples = [n + sum(map(len, shard)) for n, shard in zip(num_samples, shards, strict=True)]
            alone.update(shards)
            results = group.update(episodes=episodes(), **EPOCHS)
            if update < interval - 1:
                for actual, expected in zip(own_weights(group), alone.weights(), strict=True):
                    assert_near(actual, expected)
        before = alone.weights()
        expected = alone.merge(num_samples)
        assert_near(assert_equal_learners(group), expected)
        for result, own in zip(results, before, strict=True):
            distance = np.sqrt(sum(np.square(own[name] - expected[name]).sum() for name in own))
            assert result[MODULE]["agg"]["divergence"].peek() == pytest.approx(distance, rel=1e-4)


def test_weights_of_the_last_merge_are_given_out(
    group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    start_over(group, aggregation_kwargs={"interval": 2})
    before = group.get_weights()[MODULE]
    group.update(episodes=sample(), **EPOCHS)
    for whole in (True, False):
        state = group.get_state(None if whole else "learner/rl_module")
        np.testing.assert_equal(state["learner"]["rl_module"][MODULE], before)
    own = own_weights(group)
    assert all((weights[name] != before[name]).any() for weights in own for name in list(before)[:3])
    assert (own[0][next(iter(before))] != own[1][next(iter(before))]).any()
    group.update(episodes=sample(), **EPOCHS)
    np.testing.assert_equal(group.get_weights()[MODULE], assert_equal_learners(group))


@pytest.mark.parametrize("moments", ["keep", "merge", "reset"])
def test_moments(moments: str, group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]) -> None:
    start_over(group, aggregation_kwargs={"moments": moments})
    alone = Clients(group, spaces)
    shards = shards_of(sample(), group)
    sizes = [sum(map(len, shard)) for shard in shards]
    alone.update(shards)
    group.update(episodes=sample(), **EPOCHS)
    actual = on_each(group, adam_state)
    own = [adam_state(learner) for learner in alone.learners]
    if moments == "reset":
        assert actual == [[]] * len(group)
        return
    shares = np.array(sizes) / sum(sizes)
    for i, states in enumerate(actual):
        for j, state in enumerate(states):
            for name, value in state.items():
                merged = sum(s * other[j][name] for s, other in zip(shares, own, strict=True))
                expected = own[i][j][name] if moments == "keep" else merged
                np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-6)


def adam_state(learner: Any) -> list[dict[str, Any]]:
    (optimizer,) = learner._named_optimizers.values()
    return [{name: value.numpy().copy() for name, value in state.items()} for state in optimizer.state.values()]


def test_local_epochs(group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]) -> None:
    """The first learner sits out, which still counts by its samples; the last one makes all three epochs."""
    epochs = [0, 3] if len(group) == 2 else [0, 1, 3]
    start_over(group, aggregation_kwargs={"local_epochs": epochs, "moments": "merge"})
    alone = Clients(group, spaces)
    shards = shards_of(sample(), group)
    sizes = [sum(map(len, shard)) for shard in shards]
    for learner, episodes, number in zip(alone.learners, shards, epochs, strict=True):
        if number:
            learner.update(episodes=episodes, **{**EPOCHS, "num_epochs": number})
    results = group.update(episodes=sample(), **EPOCHS)
    assert_near(assert_equal_learners(group), alone.merge(sizes))
    assert results[0][MODULE]["agg"]["skipped_updates"].peek() == 0
    steps = [state["step"] for state in on_each(group, adam_state)[0]]
    made = [adam_state(learner)[0]["step"] if number else 0 for learner, number in zip(alone.learners, epochs, strict=True)]
    assert steps[0] == pytest.approx(np.average(made, weights=sizes), rel=1e-5)


def test_fedprox_without_its_term_is_fedavg(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    outcomes = []
    for settings in ({"aggregation": "fedavg"}, {"aggregation": "fedprox", "aggregation_kwargs": {"mu": 0.0}}):
        start_over(group, **settings)
        for _ in range(2):
            group.update(episodes=sample(), **EPOCHS)
        outcomes.append(assert_equal_learners(group))
    np.testing.assert_equal(outcomes[1], outcomes[0])


def test_fedprox_is_drawn_to_the_last_merge(
    group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    """Against RLlib's learners whose loss gains the term, over two updates between merges."""
    start_over(group, aggregation="fedprox", aggregation_kwargs={"mu": 2.0, "interval": 2})
    alone = Clients(group, spaces)
    for learner in alone.learners:
        anchor = [parameter.detach().clone() for parameter in learner.module[MODULE].parameters()]

        def drawn(*, _learner: Any = learner, _anchor: Any = anchor, **kwargs: Any) -> Any:
            pairs = zip(_learner.module[MODULE].parameters(), _anchor, strict=True)
            term = sum(((own - merged) ** 2).sum() for own, merged in pairs)
            return PPOTorchLearner.compute_loss_for_module(_learner, **kwargs) + 0.5 * 2.0 * term

        learner.compute_loss_for_module = drawn
    sizes = [2 * sum(map(len, shard)) for shard in shards_of(sample(), group)]
    for _ in range(2):
        alone.update(shards_of(sample(), group))
        group.update(episodes=sample(), **EPOCHS)
    assert_near(assert_equal_learners(group), alone.merge(sizes))


def test_agents_stay_with_their_learner(sample: Callable[[], list[Any]]) -> None:
    shards = AgentTrainingData(sample(), by_agent=True, local=True).shard(2, 0, num_epochs=2, minibatch_size=32)
    assert [{agent_of(episode) for episode in part.episodes} for part, _ in shards] == [{0, 2, 4}, {1, 3}]
    assert [extra for _, extra in shards] == [{}, {}]


def test_ledger_counts_a_model_each_way_for_each_merge(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, aggregation_kwargs={"interval": 2})
    size = sum(value.size for value in own_weights(group)[0].values())
    seen = []
    for _ in range(4):
        results = group.update(episodes=sample(), **EPOCHS)
        seen.append({name: stats.peek() for name, stats in results[0][MODULE]["agg"].items()})
    assert [logged["messages"] for logged in seen] == [0, len(group), len(group), 2 * len(group)]
    assert seen[-1]["bytes"] == 2 * len(group) * 4 * (size + 1)  # with the number of samples
    assert seen[-1]["bytes_down"] == 2 * len(group) * 4 * size
    assert 1 < seen[-1]["effective_agents"] <= len(group)
    assert seen[-1]["weight_min"] + (len(group) - 1) * seen[-1]["weight_max"] == pytest.approx(1.0, abs=0.05)


def test_agent_that_sends_nan_is_masked_by_its_learner(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group)
    episodes = sample()
    for episode in episodes:
        if agent_of(episode) == 2:
            episode.extra_model_outputs["action_logp"].data[0] = -200.0
            episode.rewards.data[:] = 50.0
    results = group.update(episodes=episodes, **EPOCHS)
    assert results[0][MODULE]["agg"]["masked_agents"].peek() == 1
    assert all(np.isfinite(value).all() for value in assert_equal_learners(group).values())


def federated_ppo(**settings: Any) -> AggPPOConfig:
    kwargs = {"interval": 2, "moments": "keep", **settings}
    config = tiny_ppo(**{**SETTINGS, "aggregation": "fedprox", "aggregation_kwargs": kwargs, "minibatch_size": 32})
    return config.learners(num_learners=2, shard_by_agent=True)


@pytest.mark.slow
def test_restored_learners_keep_their_own_parameters(
    ray_session: None, sample: Callable[[], list[Any]], tmp_path: Path
) -> None:
    """Saved between two merges, in files and in memory."""
    algorithm = federated_ppo().build_algo()
    for _ in range(3):
        algorithm.train()
    group = algorithm.learner_group
    path, state, own = algorithm.save_to_path(tmp_path / "checkpoint"), group.get_state(), own_weights(group)
    sent = algorithm.env_runner.module.get_state()
    np.testing.assert_equal(sent, {name: group.get_weights()[MODULE][name] for name in sent})  # what was merged last
    assert (own[0]["pi.net.mlp.0.weight"] != sent["pi.net.mlp.0.weight"]).any()
    group.update(episodes=sample(), **EPOCHS)
    expected = assert_equal_learners(group)

    group.set_state(state)
    np.testing.assert_equal(own_weights(group), own)
    group.update(episodes=sample(), **EPOCHS)
    np.testing.assert_equal(assert_equal_learners(group), expected)

    restored = AggPPO.from_checkpoint(path)
    np.testing.assert_equal(own_weights(restored.learner_group), own)
    np.testing.assert_equal(restored.env_runner.module.get_state(), sent)
    restored.learner_group.update(episodes=sample(), **EPOCHS)
    np.testing.assert_equal(assert_equal_learners(restored.learner_group), expected)
    ledgers = on_each(restored.learner_group, lambda learner: learner.aggregator(MODULE).exchange.ledger.messages)
    assert ledgers == [4, 4]
    restored.stop()
    algorithm.stop()


@pytest.mark.parametrize(
    ("num_learners", "training", "message"),
    [
        (1, {}, "takes each learner for an agent; set num_learners to 2 or more, not 1"),
        (0, {"aggregation": FedAvg()}, "set num_learners to 2 or more, not 0"),
        (
            2,
            {"aggregation_kwargs": {"local_epochs": [1, 2, 3]}},
            "each learner is an agent of payload 'parameters': local_epochs must be one integer for each of 2",
        ),
        (2, {"aggregation_kwargs": {"local_epochs": [1, 4]}}, "some of an update's num_epochs=3"),
        (2, {"aggregation_kwargs": {"mu": 0.1}}, "fedavg has no setting 'mu'"),
        (2, {"aggregation_kwargs": {"moments": "mix"}}, "unknown moments 'mix'; choose from"),
        (2, {"attack": {"kind": "nan", "agents": [2]}}, "payload 'parameters': agent 2 cannot attack"),
        (2, {"communication": "gain"}, "gate 'gain' decides about gradients, but payload 'parameters'"),
        (2, {"aggregation": "pp_pps"}, r"unknown layer 'head'; choose from encoder, pi, vf"),
        (2, {"aggregation": "actor_sum"}, "keeps parameters for each agent"),
    ],
)
def test_bad_settings(num_learners: int, training: dict[str, Any], message: str, ray_session: None) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**{**SETTINGS, **training}).learners(num_learners=num_learners).build_algo()


def test_scheme_for_one_module_only() -> None:
    config = tiny_ppo(aggregation="mean").learners(num_learners=2)
    config.multi_agent(
        policies={"p0"},
        policy_mapping_fn=lambda *args, **kwargs: "p0",
        algorithm_config_overrides_per_module={"p0": {"aggregation": "fedavg"}},
    )
    with pytest.raises(
        ValueError, match=r"in the overrides for module 'p0': payload .* differ, but parameters are exchanged of all modules"
    ):
        config.validate()


SCHEMES: list[dict[str, Any]] = [
    {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 0}, "payload": "parameters"},
    {"aggregation": "r_weighted", "payload": "parameters", "compression": "float16"},
    {"aggregation": "l_weighted", "payload": "parameter_differences", "interval": 2},
    {"aggregation": "fedprox", "aggregation_kwargs": {"moments": "merge"}, "communication": "lag"},
    {"aggregation": "median", "payload": Parameters(moments="reset"), "attack": {"kind": "nan", "agents": [0]}},
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=[f"{scheme['aggregation']}" for scheme in SCHEMES])
def test_any_scheme_of_parameters(scheme: dict[str, Any], group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    if scheme["aggregation"] == "krum" and len(group) < 3:
        pytest.skip("Krum needs three")
    start_over(group, **scheme)
    for _ in range(2):
        results = group.update(episodes=sample(), **EPOCHS)
    weights = assert_equal_learners(group)
    assert all(np.isfinite(value).all() for value in weights.values())
    logged = {name: stats.peek() for name, stats in results[0][MODULE]["agg"].items()}
    num_merges = 2 // scheme.get("interval", 1)
    size = sum(value.size for value in weights.values())
    most = num_merges * (len(group) - ("attack" in scheme))
    assert 0 < logged["messages"] <= most
    assert logged["messages"] == most or "communication" in scheme
    assert logged["bytes_down"] >= num_merges * len(group) * 4 * size


def test_lag_that_lets_all_send_is_fedavg(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """To the bit."""
    outcomes = []
    for settings in ({}, {"communication": "lag", "communication_kwargs": {"xi": 0}}):
        start_over(group, **settings)
        for _ in range(3):
            group.update(episodes=sample(), **EPOCHS)
        outcomes.append(assert_equal_learners(group))
    np.testing.assert_equal(outcomes[1], outcomes[0])


def test_lag_holds_learners_back(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, communication="lag", communication_kwargs={"xi": 100.0})
    for _ in range(3):
        results = group.update(episodes=sample(), **EPOCHS)
        assert_equal_learners(group)
    assert len(group) <= results[0][MODULE]["agg"]["messages"].peek() < 3 * len(group)


def test_moments_of_learners_that_do_not_send_stay_their_own(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    """They would come with the message."""
    gate = {"communication": "lag", "communication_kwargs": {"xi": 1e9}}
    start_over(group, aggregation_kwargs={"moments": "merge"}, **gate)
    for update in range(3):
        results = group.update(episodes=sample(), **EPOCHS)
        first, second, *_ = (states[0]["exp_avg"] for states in on_each(group, adam_state))
        assert results[0][MODULE]["agg"]["messages"].peek() == len(group)
        assert np.array_equal(first, second) == (update == 0)


def test_a_state_that_is_set_in_place_keeps_the_number_of_weights(
    group: AggLearnerGroup, sample: Callable[[], list[Any]]
) -> None:
    """Env runners take weights only if their number is larger than the last."""
    start_over(group)
    group.update(episodes=sample(), **EPOCHS)
    numbers = on_each(group, lambda learner: learner.weights_seq_no)
    assert min(numbers) > 0
    group.set_state(group.get_state())
    assert on_each(group, lambda learner: learner.weights_seq_no) == numbers


def test_some_layers_stay_with_their_learner(
    group: AggLearnerGroup, sample: Callable[[], list[Any]], spaces: dict[str, Any]
) -> None:
    start_over(group, aggregation="pp_pps", aggregation_kwargs={"layers": ("vf",)})
    group.update(episodes=sample(), **EPOCHS)
    first, second, *_ = own_weights(group)
    for name, value in first.items():
        if not name.endswith("_const"):
            assert (value == second[name]).all() == name.startswith("vf."), name


def test_rules_see_returns_and_losses_of_a_learners_agents(group: AggLearnerGroup, sample: Callable[[], list[Any]]) -> None:
    start_over(group, aggregation="mean", payload="parameters")
    group.config.shard_by_agent = True
    on_each(group, note_signals)
    group.update(episodes=sample(), **EPOCHS)
    total = {agent: sum(e.get_return() for e in sample() if agent_of(e) == agent and e.is_done) for agent in range(5)}
    ended = {agent: sum(e.is_done for e in sample() if agent_of(e) == agent) for agent in range(5)}
    known = on_each(group, lambda learner: learner.aggregator(MODULE).returns.tolist())[0]
    assert sum(ended.values())
    assert all(total[agent] <= known[agent] * ended[agent] for agent in total if ended[agent])
    for returns, losses, num_samples in on_each(group, lambda learner: learner.aggregator(MODULE).exchange.reported):
        assert sum(num_samples) == sum(map(len, sample()))
        assert np.isfinite(losses).all()
        assert len(set(losses)) == len(group)
        for rank, found in enumerate(returns):
            own = [known[agent] for agent in range(5) if agent % len(group) == rank and ended[agent]]
            assert found == pytest.approx(np.mean(own)) if own else np.isnan(found)


def note_signals(learner: Any) -> None:
    """Have an exchange keep the signals that it was last given."""
    exchange = learner.aggregator(MODULE).exchange
    merge = exchange.merge

    def noted(vectors: Any, signals: Any, **kwargs: Any) -> Any:
        exchange.reported = [getattr(signals, name).tolist() for name in ("returns", "losses", "num_samples")]
        return merge(vectors, signals, **kwargs)

    exchange.merge = noted
