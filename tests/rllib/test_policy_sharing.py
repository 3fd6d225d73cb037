"""Policies of a multi-agent environment that merge their parameters: as policies that are alone, averaged by hand."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule

from rl_agg import Signals
from rl_agg.combiners import Median
from rl_agg.local_schemes import AveragePPS
from rllib_agg import AggPPO, AggPPOConfig
from tests.rllib.groups import UPDATE, on_each, plain
from tests.rllib.ppo_configs import TINY, tiny_ppo
from tests.rllib.two_players import TwoPlayers

cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("ray_session")

POLICIES = ("p_one", "p_ten")
RETURNS = {"p_one": 5.0, "p_ten": 20.0}
SIZES = {"encoder": 2 * (2 * 8 + 8), "pi": 8 * 2 + 2, "vf": 8 + 1}
BUFFERS = {"encoder": 0, "pi": 1, "vf": 1}  # a bound of the heads

Weights = dict[str, dict[str, NDArray[np.float32]]]


def players(*, policies: tuple[str, ...] = POLICIES, **training: Any) -> AggPPOConfig:
    config = (
        tiny_ppo(num_envs=3, **training)
        .environment(TwoPlayers)
        .multi_agent(policies=set(policies), policy_mapping_fn=lambda agent, *args, **kwargs: f"p_{agent}")
        .rl_module(model_config=TINY)
    )
    config.validate()
    return config


@cache
def runner() -> MultiAgentEnvRunner:
    return MultiAgentEnvRunner(config=players())


@cache
def rollouts() -> list[list[Any]]:
    return [runner().sample(num_timesteps=33) for _ in range(4)]


def built(**training: Any) -> Any:
    torch.manual_seed(1)
    config = players(**training)
    spaces = runner().get_spaces()
    return config.build_learner(spaces={**dict.fromkeys(config.policies, spaces["p_one"]), **spaces})


def update(learner: Any, rollout: int = 0) -> dict[str, Any]:
    """One on the same episodes each time; what is logged of all policies together."""
    return update_on(learner, rollouts()[rollout])


def update_on(learner: Any, episodes: list[Any]) -> dict[str, Any]:
    results = learner.update(episodes=copy.deepcopy(episodes), timesteps={})
    return {name: value.peek() for name, value in results["__all_modules__"].get("agg", {}).items()}


def weights(learner: Any) -> Weights:
    return copy.deepcopy({id_: state for id_, state in learner.module.get_state().items() if id_ in learner.config.policies})


def moments(learner: Any, name: str) -> Weights:
    """By policy and parameter."""
    states = {id_: optimizer.state for id_, optimizer in learner.optimizers()}
    named = {id_: dict(learner.module[id_].named_parameters()) for id_ in states}
    return {
        id_: {key: states[id_][own][name].numpy().copy() for key, own in named[id_].items() if own in states[id_]}
        for id_ in states
    }


def alone(learner: Any, rollout: int = 0) -> Any:
    """A learner whose policies begin where another's are, after an update without merges."""
    other = built()
    other.module.set_state(weights(learner))
    update(other, rollout)
    return other


def average(own: Weights, shares: tuple[float, ...] = (0.5, 0.5)) -> dict[str, NDArray[np.float64]]:
    names = list(next(iter(own.values())))
    columns = {name: [own[id_][name].astype(np.float64) for id_ in sorted(own)] for name in names}
    return {name: sum(s * c for s, c in zip(shares, column, strict=True)) for name, column in columns.items()}


def assert_merged(found: Weights, expected: dict[str, Any]) -> None:
    for own in found.values():
        np.testing.assert_equal(own, found["p_one"])  # to the bit
    for name, value in expected.items():
        np.testing.assert_allclose(found["p_one"][name], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_none_is_as_if_it_were_not_there() -> None:
    named, plain_one = built(parameter_sharing="none"), built()
    for rollout in range(3):
        assert update(named, rollout) == update(plain_one, rollout) == {}
    np.testing.assert_equal(weights(named), weights(plain_one))
    assert named.get_state()["aggregation"].keys() == {"modules", "kl_coeffs"}


def test_a_pps_averages_policies() -> None:
    learner, other = built(parameter_sharing="a_pps"), built()
    other.module.set_state(weights(learner))
    for rollout in range(3):  # Adam's moments stay each policy's own
        update(other, rollout)
        own = weights(other)
        assert any((own["p_one"][name] != own["p_ten"][name]).any() for name in own["p_one"])
        assert update(learner, rollout)["merges"] == rollout + 1
        assert_merged(weights(learner), average(own))
        other.module.set_state(weights(learner))
    np.testing.assert_equal(moments(learner, "exp_avg"), moments(other, "exp_avg"))


def test_policies_are_alone_between_two_merges() -> None:
    learner, other = built(parameter_sharing="a_pps", sharing_interval=3), built()
    other.module.set_state(weights(learner))
    for rollout in range(4):
        update(other, rollout)
        assert update(learner, rollout)["merges"] == (rollout >= 2)
        if rollout < 2:
            np.testing.assert_equal(weights(learner), weights(other))
        elif rollout == 2:
            assert_merged(weights(learner), average(weights(other)))


def test_rs_pps_weighs_by_shares_of_returns() -> None:
    learner = built(parameter_sharing="rs_pps")
    other = alone(learner)
    logged = update(learner)
    assert {id_: learner.aggregator(id_).mean_return for id_ in POLICIES} == RETURNS
    shares = tuple(value / sum(RETURNS.values()) for value in RETURNS.values())
    assert_merged(weights(learner), average(weights(other), shares))
    assert (logged["weight_min"], logged["weight_max"]) == pytest.approx(shares)
    assert logged["effective_agents"] == pytest.approx(1 / np.square(shares).sum())


def test_samples_are_those_since_the_last_merge() -> None:
    learner = built(parameter_sharing="samples", sharing_interval=2)
    other = built()
    other.module.set_state(weights(learner))
    for rollout in range(2):
        update(learner, rollout)
        update(other, rollout)
    episodes = [chunk for rollout in rollouts()[:2] for episode in rollout for chunk in episode.agent_episodes.values()]
    num_samples = [sum(len(chunk) for chunk in episodes if chunk.module_id == id_) for id_ in POLICIES]
    assert num_samples[0] > num_samples[1] > 0
    assert_merged(weights(learner), average(weights(other), tuple(n / sum(num_samples) for n in num_samples)))


def test_l_weighted_reads_the_mean_losses() -> None:
    learner = built(parameter_sharing="l_weighted")
    other = alone(learner)
    losses = torch.stack([other.aggregator(id_).stats.last.losses.mean() for id_ in POLICIES])  # of equally many samples each
    update(learner)
    counts = losses / losses.sum() + 0.5
    assert (losses > 0).all()
    assert_merged(weights(learner), average(weights(other), tuple((counts / counts.sum()).tolist())))


@pytest.mark.parametrize(
    "layers", [None, *[pytest.param(each, marks=pytest.mark.slow) for each in (("encoder",), ("vf", "encoder.actor_encoder"))]]
)
def test_pp_pps_leaves_the_rest_alone(layers: Any) -> None:
    learner = built(parameter_sharing="pp_pps", shared_layers=layers)
    other = alone(learner)
    update(learner)
    own, found = weights(other), weights(learner)
    merged = [name for name in own["p_one"] if name.startswith(layers or ("pi.", "vf."))]
    assert 0 < len(merged) < len(own["p_one"])
    expected = average(own, (0.2, 0.8))
    for id_ in POLICIES:
        for name, value in own[id_].items():
            if name not in merged:
                np.testing.assert_equal(found[id_][name], value)
    for each in (found, expected):
        for name in set(own["p_one"]) - set(merged):
            for part in each.values() if each is found else [each]:
                del part[name]
    assert_merged(found, expected)


def test_a_function_and_a_combiner_merge() -> None:
    for sharing in (first_policy, "median", Median()):
        learner = built(parameter_sharing=sharing)
        other = alone(learner)
        update(learner)
        assert_merged(weights(learner), average(weights(other), (1, 0) if sharing is first_policy else (0.5, 0.5)))


def first_policy(signals: Signals) -> torch.Tensor:
    return torch.eye(signals.num_agents)[0]


@pytest.mark.parametrize("kind", ["merge", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("keep", "reset"))])
def test_moments(kind: str) -> None:
    learner = built(parameter_sharing="pp_pps", moments=kind)
    other = alone(learner)
    update(learner)
    for name in ("exp_avg", "exp_avg_sq"):
        found, own = moments(learner, name), moments(other, name)
        merged = average(own, (0.2, 0.8))
        for id_ in POLICIES:
            for key, before in own[id_].items():
                if kind == "keep" or key.startswith("encoder"):
                    np.testing.assert_equal(found[id_][key], before)
                elif kind == "merge":
                    np.testing.assert_allclose(found[id_][key], merged[key], rtol=1e-5, atol=1e-9)
                else:
                    assert key not in found[id_]


@pytest.mark.parametrize(
    ("settings", "layers", "scalars", "copies"),
    [
        ({"parameter_sharing": "a_pps"}, SIZES, 0, 1),
        ({"parameter_sharing": "rs_pps"}, SIZES, 1, 1),
        ({"parameter_sharing": "pp_pps"}, ("pi", "vf"), 1, 1),
        ({"parameter_sharing": "a_pps", "moments": "merge"}, SIZES, 0, 3),
    ],
)
def test_what_is_sent_is_counted(settings: dict[str, Any], layers: Any, scalars: int, copies: int) -> None:
    learner = built(sharing_interval=2, **settings)
    for rollout in range(4):
        logged = update(learner, rollout)
    steps = 8 * (copies > 1)  # Adam counts them for each tensor
    numbers = copies * sum(SIZES[layer] for layer in layers) + sum(BUFFERS[layer] for layer in layers) + steps
    assert logged["merges"] == 2
    assert logged["messages"] == 4
    assert logged["bytes"] == 4 * 4 * (numbers + scalars)
    assert logged["bytes_down"] == 4 * 4 * numbers


def test_policies_hold_what_they_decode_of_the_merged_parameters() -> None:
    """Some of the numbers of the average, in a message of as many bits; buffers are sent as they are."""
    settings = {"sharing_broadcast_compression": "top_k", "sharing_broadcast_compression_kwargs": {"number": 9}}
    learner = built(parameter_sharing="a_pps", **settings)
    before, other = weights(learner)["p_one"], alone(learner)
    logged = update(learner)
    found, expected = weights(learner)["p_one"], average(weights(other))
    np.testing.assert_equal(weights(learner)["p_ten"], found)
    changed = {name: found[name] != before[name] for name in found}
    assert sum(int(own.sum()) for own in changed.values()) == 9
    for name, own in changed.items():
        np.testing.assert_allclose(found[name][own], expected[name][own], rtol=1e-5, atol=1e-6)
    size = sum(SIZES.values())
    assert logged["bytes_down"] == 2 * (math.ceil(9 * (32 + math.ceil(math.log2(size))) / 8) + 4 * sum(BUFFERS.values()))


def test_a_gate_lets_one_policy_send() -> None:
    settings = {"expected_messages": 1, "seed": 2}
    learner = built(parameter_sharing="a_pps", sharing_communication="random", sharing_communication_kwargs=settings)
    other = alone(learner)
    assert update(learner)["messages"] == 1
    (sender,) = np.flatnonzero(learner.sharing.state_dict()["ledger"]["messages"])
    assert_merged(weights(learner), weights(other)[POLICIES[sender]])


def test_lag_sends_less_and_float16_halves_and_rounds() -> None:
    lag = {"sharing_communication": "lag", "sharing_communication_kwargs": {"xi": 10.0}}
    gated, coded, exact = (built(parameter_sharing="a_pps", **own) for own in (lag, {"sharing_compression": "float16"}, {}))
    for rollout in range(4):
        if rollout:
            coded.module.set_state(weights(exact))
        sent = [update(learner, rollout) for learner in (gated, coded, exact)]
    assert sent[0]["messages"] < sent[2]["messages"] == 8
    numbers, buffers = sum(SIZES.values()), sum(BUFFERS.values())
    assert [own["bytes"] for own in sent[1:]] == [8 * (2 * numbers + 4 * buffers), 8 * 4 * (numbers + buffers)]
    found, expected = weights(coded), weights(exact)
    assert any((found["p_one"][name] != expected["p_one"][name]).any() for name in found["p_one"])
    for name, value in expected["p_one"].items():
        np.testing.assert_allclose(found["p_one"][name], value, rtol=0, atol=1e-3)


def test_a_policy_without_samples_receives_and_does_not_send() -> None:
    learner = built(policies=(*POLICIES, "p_zero"), parameter_sharing="a_pps")
    learner.module["p_zero"].unwrapped().load_state_dict(
        {name: value + 1 for name, value in learner.module["p_zero"].unwrapped().state_dict().items()}
    )
    other = alone(learner)
    assert update(learner)["messages"] == 2
    found = weights(learner)
    assert_merged({id_: found[id_] for id_ in POLICIES}, average(weights(other)))
    for name, _ in learner.module["p_zero"].unwrapped().named_parameters():
        np.testing.assert_equal(found["p_zero"][name], found["p_one"][name])


def test_a_policy_without_samples_is_not_one_of_the_faulty() -> None:
    """Four have samples, of which one is corrupted."""
    names = [f"p{number}" for number in range(5)]

    def config(**training: Any) -> AggPPOConfig:
        made = tiny_ppo(num_envs=1, **training).environment(MultiAgentCartPole, env_config={"num_agents": 4})
        made.multi_agent(policies=set(names), policy_mapping_fn=lambda agent, *args, **kwargs: f"p{agent}").validate()
        return made

    sampler = MultiAgentEnvRunner(config=config())
    spaces, episodes = sampler.get_spaces(), sampler.sample(num_timesteps=20)
    spaces = {**dict.fromkeys(names, spaces["p0"]), **spaces}
    settings = {"parameter_sharing": "trimmed_mean", "parameter_sharing_kwargs": {"num_byzantine": 1}}
    learner, other = config(**settings).build_learner(spaces=spaces), config().build_learner(spaces=spaces)
    with torch.no_grad():
        learner.module["p3"].unwrapped().vf.net.mlp[0].bias.fill_(1e6)
    other.module.set_state(weights(learner))
    update_on(other, episodes)
    own = weights(other)
    assert update_on(learner, episodes)["messages"] == 4
    middle = {name: np.sort([own[id_][name] for id_ in names[:4]], axis=0)[1:3].mean(0) for name in own["p0"]}
    found = weights(learner)
    for name, _ in learner.module["p0"].unwrapped().named_parameters():
        for id_ in names:
            np.testing.assert_allclose(found[id_][name], middle[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_policy_that_is_not_finite_is_masked_and_replaced() -> None:
    learner = built(parameter_sharing="a_pps")
    with torch.no_grad():
        learner.module["p_one"].unwrapped().vf.net.mlp[0].bias.fill_(torch.nan)
    update(learner)
    found = weights(learner)
    assert all(np.isfinite(value).all() for value in found["p_one"].values())
    assert learner.sharing.state_dict()["ledger"]["messages"] == [0, 1]


@pytest.mark.parametrize("same", [True, False])
def test_same_starts(same: bool) -> None:
    own = weights(built(parameter_sharing="a_pps", same_init=same))
    first = weights(built())["p_one"]
    np.testing.assert_equal(own["p_one"], first)
    assert all((own["p_ten"][name] == first[name]).all() for name in first) == same


def test_weights_that_are_loaded_stay(tmp_path: Path) -> None:
    before = built()
    paths = {id_: str(before.module[id_].save_to_path(tmp_path / id_)) for id_ in POLICIES}
    specs = {id_: RLModuleSpec(model_config=TINY, load_state_path=path) for id_, path in paths.items()}
    config = players(parameter_sharing="a_pps").rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
    np.testing.assert_equal(weights(config.build_learner(spaces=runner().get_spaces())), weights(before))


MEMORY = {
    "parameter_sharing": "rs_pps",
    "sharing_interval": 2,
    "sharing_communication": "lag",
    "sharing_compression": "float16",
    "sharing_broadcast_compression": "sign",
    "sharing_budget_bytes_per_update": 300,
    "moments": "merge",
}


def state_of(learner: Any) -> dict[str, Any]:
    state = learner.get_state()
    return {name: plain(state[name]) for name in ("rl_module", "optimizer", "aggregation", "weights_seq_no")}


def test_a_restored_run_is_the_run_that_was_saved(tmp_path: Path) -> None:
    algorithm = players(**MEMORY, train_batch_size_per_learner=30).build_algo()
    for _ in range(3):  # between two merges
        result = algorithm.train()
    assert result["learners"]["__all_modules__"]["agg"]["merges"] == 1
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    learner = algorithm.local_learner
    saved = state_of(learner)
    assert saved["aggregation"]["sharing"]["trained"]["p_one"][0] > 0
    assert saved["aggregation"]["sharing"]["uplink"]["last"].any()
    assert saved["aggregation"]["sharing"]["downlink"]["lost"].any()
    assert result["learners"]["__all_modules__"]["agg"]["xi"] == saved["aggregation"]["sharing"]["budget"]["value"] != 0.1
    restored = AggPPO.from_checkpoint(path)
    twin = restored.local_learner
    np.testing.assert_equal(state_of(twin), saved)
    for rollout in range(3):
        assert update(twin, rollout) == update(learner, rollout)
    np.testing.assert_equal(state_of(twin), state_of(learner))
    algorithm.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(state_of(learner), saved)
    algorithm.train()
    for each in (algorithm.get_module, lambda id_: learner.module[id_]):  # env runners act by the merge
        states = [plain(each(id_).get_state(inference_only=True)) for id_ in POLICIES]
        np.testing.assert_equal(states[0], states[1])
    algorithm.stop()
    restored.stop()


def test_a_state_without_sharing_or_of_other_settings_is_taken_over() -> None:
    source, gated = built(), built(**MEMORY)
    for learner in (source, gated):
        update(learner)
        update(learner)
    target = built(**{**MEMORY, "shared_layers": ("pi",)})
    target.set_state(gated.get_state())
    assert target.sharing.totals["merges"] == 1
    update(target)
    update(target)
    assert target.sharing.totals["messages"] > gated.sharing.totals["messages"]
    target.set_state(source.get_state())
    assert target.sharing.totals["merges"] == 0
    np.testing.assert_equal(weights(target), weights(source))
    update(target)
    update(target)
    assert target.sharing.totals["merges"] == 1


@pytest.mark.remote
@pytest.mark.slow
def test_two_learners_merge_as_one() -> None:
    settings = {"parameter_sharing": "rs_pps", "shared_layers": ("encoder", "pi"), "advantage_norm": "agent"}
    one = built(**settings)
    group = players(**settings).learners(num_learners=2).build_learner_group(spaces=runner().get_spaces())
    group.set_weights(weights(one))
    for rollout in range(2):
        update(one, rollout)
        results = group.update(episodes=copy.deepcopy(rollouts()[rollout]), **UPDATE)
        first, second = on_each(group, weights)
        np.testing.assert_equal(second, first)
        for id_, own in weights(one).items():
            for name, value in own.items():
                np.testing.assert_allclose(first[id_][name], value, rtol=1e-4, atol=1e-5)
        assert {result["__all_modules__"]["agg"]["messages"].peek() for result in results} == {2 * rollout + 2}
    state = group.get_state()
    ends = []
    for _ in range(2):
        group.set_state(state)
        group.update(episodes=copy.deepcopy(rollouts()[2]), **UPDATE)
        ends.append(on_each(group, weights))
    np.testing.assert_equal(ends[1], ends[0])
    group.shutdown()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"parameter_sharing": "rspps"}, "unknown parameter_sharing 'rspps' .*choose from a_pps, .*none, pp_pps"),
        ({"parameter_sharing": "full"}, "unknown parameter_sharing 'full'"),
        ({"parameter_sharing": AveragePPS()}, "has settings of its own; give one of a_pps, rs_pps, pp_pps"),
        ({"parameter_sharing": "a_pps", "sharing_interval": 0}, "sharing_interval must be an integer >= 1, got 0"),
        ({"sharing_interval": 1.5}, "sharing_interval must be an integer >= 1, got 1.5"),
        ({"parameter_sharing": "a_pps", "moments": "mean"}, "unknown moments 'mean'; choose from keep, merge, reset"),
        ({"parameter_sharing": "a_pps", "same_init": 1}, "same_init must be True or False, got 1"),
        ({"parameter_sharing": "a_pps", "shared_layers": "pi"}, "layers must be names of modules, or None for all"),
        ({"parameter_sharing": "a_pps", "sharing_communication": "lagg"}, r"unknown communication 'lagg' \(did you mean"),
        ({"sharing_communication": "lag"}, "parameter_sharing='none' exchanges nothing, but sharing_communication='lag'"),
        ({"shared_layers": ("pi",)}, r"parameter_sharing='none' exchanges nothing, but shared_layers=\('pi',\) was given"),
        ({"moments": "reset"}, "parameter_sharing='none' exchanges nothing, but moments='reset' was given"),
        (
            {"parameter_sharing": "a_pps", "aggregation": "fedavg"},
            "parameter_sharing='a_pps' merges policies, .* but aggregation='fedavg' .* gives each learner its own",
        ),
    ],
)
def test_settings_that_are_wrong(training: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        players().training(**training).learners(num_learners=2).validate()


def wide(config: AggPPOConfig) -> AggPPOConfig:
    specs = {id_: RLModuleSpec(model_config={**TINY, "fcnet_hiddens": [size]}) for id_, size in (("p_one", 8), ("p_ten", 9))}
    return config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))


def scripted(config: AggPPOConfig) -> AggPPOConfig:
    specs = {"p_one": RLModuleSpec(model_config=TINY), "p_ten": RLModuleSpec(module_class=RandomRLModule)}
    return config.rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))


REFUSALS: list[tuple[dict[str, Any], Callable[[AggPPOConfig], Any], str]] = [
    (
        {},
        lambda c: c.multi_agent(policies={"p_all"}, policy_mapping_fn=lambda *args, **kwargs: "p_all"),
        r"parameter_sharing='a_pps' merges policies, but there is only 'p_all'; give each agent .* by .multi_agent\(",
    ),
    (
        {},
        lambda c: c.multi_agent(policies_to_train=["p_one"]),
        r"but 'p_ten' would change .* \(policies_to_train=\['p_one'\]\)",
    ),
    ({}, lambda c: c.multi_agent(policies_to_train=lambda id_, batch: id_ == "p_ten"), "but 'p_one' would change without"),
    ({}, scripted, r"merges all policies, but 'p_ten' would change without training \(policies_to_train=None\); train all"),
    (
        {},
        wide,
        r"encoder.actor_encoder.net.mlp.0.weight is \(8, 2\) in policy 'p_one' and \(9, 2\) in 'p_ten'; give them the same",
    ),
    ({"shared_layers": ("head",)}, lambda c: c, "unknown layer 'head'; choose from encoder, pi, vf"),
    (
        {"parameter_sharing": "krum", "parameter_sharing_kwargs": {"num_byzantine": 1}},
        lambda c: c,
        "krum with num_byzantine=1 needs",
    ),
    (
        {},
        lambda c: c.multi_agent(algorithm_config_overrides_per_module={"p_one": {"sharing_interval": 2}}),
        "module 'p_one' overrides sharing_interval, which holds for all modules alike",
    ),
]


@pytest.mark.parametrize(("training", "change", "message"), REFUSALS)
@pytest.mark.parametrize("num_learners", [0, 1])
def test_policies_that_cannot_be_merged(
    training: dict[str, Any], change: Callable[[AggPPOConfig], Any], message: str, num_learners: int
) -> None:
    """Without remote learners, the algorithm's own says so."""
    config = players(**{"parameter_sharing": "a_pps", **training}).learners(num_learners=num_learners)
    change(config)
    with pytest.raises(ValueError, match=message):
        config.build_algo()


def test_layers_of_equal_shapes_are_enough() -> None:
    config = wide(players(parameter_sharing="a_pps", shared_layers=("pi.net.mlp.0.bias",)))
    learner = config.build_learner(spaces=runner().get_spaces())
    update(learner)
    own = weights(learner)
    np.testing.assert_equal(own["p_one"]["pi.net.mlp.0.bias"], own["p_ten"]["pi.net.mlp.0.bias"])


def test_one_policy_cannot_share(ray_session: None) -> None:
    with pytest.raises(ValueError, match="merges policies, but there is only 'default_policy'"):
        tiny_ppo(parameter_sharing="a_pps").build_algo()


def test_policies_that_are_added_or_removed() -> None:
    learner = built(policies=(*POLICIES, "p_zero"), parameter_sharing="a_pps")
    learner.remove_module("p_zero")
    with pytest.raises(ValueError, match="built with, p_one, p_ten, p_zero, but there are p_one, p_ten now; build it anew"):
        update(learner)


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["a_pps", "rs_pps"])
def test_policies_that_share_learn(sharing: str) -> None:
    """Two poles, a policy each."""
    config = (
        AggPPOConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": 2})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=8)
        .multi_agent(policies={"p0", "p1"}, policy_mapping_fn=lambda agent, *args, **kwargs: f"p{agent}")
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "fcnet_activation": "tanh", "vf_share_layers": False})
        .training(
            parameter_sharing=sharing,
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=10,
            lr=1e-3,
            gamma=0.98,
            lambda_=0.9,
            vf_clip_param=1e4,
            use_kl_loss=False,
        )
        .debugging(seed=0)
        .reporting(metrics_num_episodes_for_smoothing=20)
    )
    algorithm = config.build_algo()
    best = 0.0
    for _ in range(150):
        result = algorithm.train()
        best = max(best, min(result["env_runners"].get("module_episode_returns_mean", {"": 0.0}).values()))
        if best >= 450:
            break
    algorithm.stop()
    assert best >= 450
