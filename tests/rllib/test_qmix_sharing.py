"""Periodic parameter sharing inside QMIX, VDN and independent learners."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_agg import Ledger, Signals, weights
from rl_agg.payloads import merge
from rllib_agg import QMIX
from rllib_agg.qmix.merging import NetworkMerging
from tests.rllib.qmix_runs import built, tiny
from tests.rllib.results import agg

pytestmark = pytest.mark.usefixtures("ray_session", "corridor")


def shared(**training: Any) -> QMIX:
    settings = {"train_batch_size_per_learner": 4, "sharing_interval": 4, "same_init": False, "epsilon": 1.0, **training}
    return built(tiny("walk/corridor", rollouts_per_iteration=1, target_network_update_freq=200, **settings))


def online(algorithm: QMIX) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.learner.team.networks.named_parameters()}


def target(algorithm: QMIX) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.learner.team.target_networks.named_parameters()}


@pytest.mark.parametrize("mixer", ["qmix", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vdn", None))])
def test_a_pps_makes_online_networks_equal(mixer: str | None) -> None:
    algorithm, alone = shared(mixer=mixer, parameter_sharing="a_pps"), shared(mixer=mixer)
    algorithm.train()
    alone.train()  # 4 updates each
    for name, value in online(algorithm).items():
        assert (value == value[:1]).all()
        torch.testing.assert_close(value[0], online(alone)[name].double().mean(0).float(), rtol=1e-6, atol=1e-7)
    assert not all((value == value[:1]).all() for value in target(algorithm).values())
    for one, other in zip(algorithm.learner.optimizers(), alone.learner.optimizers(), strict=True):
        for mine, its in zip(one[1].state.values(), other[1].state.values(), strict=True):
            assert all((mine[key] == its[key]).all() for key in mine)
    algorithm.stop()
    alone.stop()


def test_central_values_are_not_merged() -> None:
    algorithm = shared(weighting="central", parameter_sharing="a_pps", merge_targets=True)
    algorithm.train()
    team = algorithm.learner.team
    for merged in (team.networks, team.target_networks):
        assert all((value == value[:1]).all() for value in merged.parameters())
    for own in (team.central.networks, team.target_central.networks):
        assert not any((value == value[:1]).all() for value in own.parameters())
    algorithm.stop()


def test_rs_pps_weighs_by_what_each_earned() -> None:
    algorithm, alone = shared(parameter_sharing="rs_pps"), shared(credit="contribution")
    algorithm.train()
    alone.train()
    assert algorithm.config.credit_for(algorithm.agents.env.spec) == "contribution"
    earned = np.sum([played.credits.sum(0) for played in algorithm.report.played], axis=0)
    assert len(set(earned.tolist())) == 3
    assert (algorithm.server.earned == earned).all()
    assert (alone.server.earned == earned).all()
    shares = weights("reward_shares", Signals(returns=earned))
    for name, value in online(algorithm).items():
        assert (value == merge([online(alone)[name]], shares)[0]).all()
        by_hand = sum(share * online(alone)[name][agent].double() for agent, share in enumerate(earned / earned.sum()))
        torch.testing.assert_close(value[1].double(), by_hand, rtol=1e-5, atol=1e-6)
    algorithm.stop()
    alone.stop()


def test_rs_pps_with_team_credit_is_a_pps_and_warns() -> None:
    with pytest.warns(
        UserWarning, match="parameter_sharing='rs_pps' with credit='team' counts all agents alike, which is 'a_pps'"
    ):
        algorithm = shared(parameter_sharing="rs_pps", credit="team")
    plain = shared(parameter_sharing="a_pps")
    for _ in range(3):
        algorithm.train()
        plain.train()
    assert all((value == online(plain)[name]).all() for name, value in online(algorithm).items())
    algorithm.stop()
    plain.stop()


@pytest.mark.parametrize("layers", [("head",), ("feature", "rnn")])
def test_pp_pps_leaves_personal_layers_to_the_bit(layers: tuple[str, ...]) -> None:
    algorithm, alone = shared(parameter_sharing="pp_pps", shared_layers=layers), shared(credit="contribution")
    algorithm.train()
    alone.train()
    shares = weights("reward_shares", Signals(returns=alone.server.earned))
    for name, value in online(algorithm).items():
        own = online(alone)[name]
        assert (value == (merge([own], shares)[0] if name.split(".")[0] in layers else own)).all()
        assert (value == value[:1]).all() == (name.split(".")[0] in layers)
    algorithm.stop()
    alone.stop()


def test_types_merge_among_themselves() -> None:
    algorithm = shared(parameter_sharing="a_pps", within_type=True)
    algorithm.train()
    weight = online(algorithm)["head.weight"]
    assert (weight[1] == weight[2]).all()
    assert not (weight[0] == weight[1]).all()
    assert algorithm.server.ledger.messages_per_agent.tolist() == [0, 1, 1]
    algorithm.stop()


@pytest.mark.parametrize("moments", ["keep", "merge", pytest.param("reset", marks=pytest.mark.slow)])
def test_targets_and_moments(moments: str) -> None:
    algorithm, alone = shared(parameter_sharing="a_pps", merge_targets=True, moments=moments), shared()
    algorithm.train()
    alone.train()
    for name, value in target(algorithm).items():
        torch.testing.assert_close(value, target(alone)[name].mean(0, keepdim=True).expand_as(value))
    state, own = ({}, {})
    for each, found in ((algorithm, state), (alone, own)):
        for _, optimizer in each.learner.optimizers():
            names = {parameter: name for name, parameter in each.learner.team.networks.named_parameters()}
            found.update({names[parameter]: held for parameter, held in optimizer.state.items() if parameter in names})
    for name, held in state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            before = own[name][key]
            wanted = {"keep": before, "merge": before.mean(0, keepdim=True).expand_as(before), "reset": 0 * before}[moments]
            torch.testing.assert_close(held[key], wanted)
        assert held["step"] == (0 if moments == "reset" else 4)
    algorithm.stop()
    alone.stop()


def test_moments_of_several_layers_are_merged() -> None:
    algorithm = shared(parameter_sharing="pp_pps", shared_layers=("feature", "rnn"), moments="merge")
    algorithm.train()
    names = dict(algorithm.learner.team.networks.named_parameters())
    (_, optimizer), *_ = algorithm.learner.optimizers()
    for name, parameter in names.items():
        moment = optimizer.state[parameter]["exp_avg"]
        assert bool((moment == moment[:1]).all()) == (not name.startswith("head")), name
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "layers", "copies", "scalars"),
    [
        ({"parameter_sharing": "a_pps"}, ("feature", "rnn", "head"), 1, 0),
        ({"parameter_sharing": "rs_pps"}, ("feature", "rnn", "head"), 1, 1),
        ({"parameter_sharing": "pp_pps"}, ("head",), 1, 1),
        ({"parameter_sharing": "pp_pps", "merge_targets": True, "moments": "merge"}, ("head",), 4, 1),
        ({"parameter_sharing": "none"}, (), 1, 0),
        ({"parameter_sharing": "full"}, (), 1, 0),
    ],
)
def test_what_is_sent_is_counted(settings: dict[str, Any], layers: tuple[str, ...], copies: int, scalars: int) -> None:
    algorithm = shared(**settings)
    for _ in range(3):
        result = algorithm.train()
    logged = agg(result)
    sizes = {"feature": (4 + 3) * 8 + 8, "rnn": 2 * (8 * 24 + 24), "head": 8 * 3 + 3}
    numbers = copies * sum(sizes[layer] for layer in layers)
    merges = 3 if layers else 0
    assert logged["merges"] == merges
    assert logged["messages"] == 3 * merges
    assert logged["bytes"] == 3 * merges * 4 * (numbers + scalars)
    assert logged["bytes_down"] == 3 * merges * 4 * numbers
    algorithm.stop()


@pytest.mark.parametrize("layers", [None, ("feature", "rnn")])
def test_lag_with_a_bound_of_0_is_a_pps_to_the_bit(layers: Any) -> None:
    gated = shared(parameter_sharing="a_pps", communication="lag", communication_kwargs={"xi": 0.0}, shared_layers=layers)
    plain = shared(parameter_sharing="a_pps", shared_layers=layers)
    for _ in range(3):
        logged, expected = agg(gated.train()), agg(plain.train())
    assert all((value == online(plain)[name]).all() for name, value in online(gated).items())
    assert [logged[name] for name in ("messages", "bytes")] == [expected[name] for name in ("messages", "bytes")]
    gated.stop()
    plain.stop()


def test_lag_sends_less() -> None:
    algorithm = shared(parameter_sharing="mean", communication="lag", communication_kwargs={"xi": 10.0})
    for _ in range(4):
        logged = agg(algorithm.train())
    assert 3 <= logged["messages"] < 3 * logged["merges"] == 12
    assert all((value == value[:1]).all() for value in online(algorithm).values())
    algorithm.stop()


def test_krum_leaves_a_corrupted_network_out() -> None:
    algorithm = shared(parameter_sharing="krum", parameter_sharing_kwargs={"num_byzantine": 0}, same_init=True)
    alone = shared(same_init=True)
    for each in (algorithm, alone):
        with torch.no_grad():
            each.learner.team.networks.head.bias[1] = 1e6
        each.train()
    for name, value in online(algorithm).items():
        assert (value == value[:1]).all()
        assert any((value[0] == online(alone)[name][agent]).all() for agent in (0, 2))
    algorithm.stop()
    alone.stop()


def test_a_network_that_is_not_finite_is_masked_and_replaced() -> None:
    algorithm = shared(parameter_sharing="a_pps")
    algorithm.train()
    before = online(algorithm)
    with torch.no_grad():
        algorithm.learner.team.networks.head.bias[1] = torch.nan
    algorithm.train()  # no gradient is finite: networks change by the merge alone
    assert all(torch.allclose(value, before[name]) for name, value in online(algorithm).items())
    assert algorithm.server.ledger.messages_per_agent.tolist() == [2, 1, 2]
    algorithm.stop()


def test_r_weighted_weighs_networks_as_it_weighs_gradients() -> None:
    algorithm, alone = shared(parameter_sharing="r_weighted", parameter_sharing_kwargs={"h": 2}), shared(credit="contribution")
    algorithm.train()
    alone.train()
    assert algorithm.config.credit_for(algorithm.agents.env.spec) == "contribution"
    earned = alone.server.earned
    counts = (earned - earned.min()) / (earned - earned.min()).sum() + 1 / 2
    for name, value in online(algorithm).items():
        by_hand = sum(share * online(alone)[name][agent].double() for agent, share in enumerate(counts / counts.sum()))
        torch.testing.assert_close(value[2].double(), by_hand, rtol=1e-5, atol=1e-6)
    algorithm.stop()
    alone.stop()


def first_agent(signals: Signals) -> Tensor:
    assert signals.returns is not None
    return torch.eye(signals.num_agents)[0]


def test_a_function_weighs_networks() -> None:
    algorithm, alone = shared(parameter_sharing=first_agent), shared()
    algorithm.train()
    alone.train()
    assert all((value == online(alone)[name][0]).all() for name, value in online(algorithm).items())
    algorithm.stop()
    alone.stop()


def test_float16_halves_bytes_and_only_rounds() -> None:
    settings: dict[str, Any] = {"parameter_sharing": "pp_pps", "merge_targets": True}
    plain, coded = shared(**settings), shared(**settings, compression="float16")
    expected, logged = agg(plain.train()), agg(coded.train())
    scalars = 3 * 4
    assert logged["bytes"] - scalars == (expected["bytes"] - scalars) / 2
    assert logged["bytes_down"] == expected["bytes_down"]
    for name, value in online(coded).items():
        exact = online(plain)[name]
        if name.startswith("head"):
            torch.testing.assert_close(value, exact, rtol=0, atol=1e-3)
            assert (value == value[:1]).all()
            assert not (value == exact).all()
        else:
            assert (value == exact).all()
    plain.stop()
    coded.stop()


@pytest.mark.parametrize("feedback", ["classic", "ef21", False])
@pytest.mark.parametrize("compression", ["top_k", "ternary", ("random_k", "sign")], ids=str)
def test_codecs_over_networks(compression: Any, feedback: str | bool) -> None:
    """All agents decode the same networks, of messages of the size that the codec says."""
    coded = shared(parameter_sharing="a_pps", compression=compression, compression_kwargs={"error_feedback": feedback})
    logged = agg(coded.train())
    assert all((value == value[:1]).all() and bool(value.isfinite().all()) for value in online(coded).values())
    size = sum(value[0].numel() for value in online(coded).values())
    some = round(size / 100)
    bits = {"top_k": some * (32 + math.ceil(math.log2(size))), "ternary": 8 * math.ceil(size / 5) + 32}.get(
        compression, some + 32
    )
    assert logged["bytes"] == logged["messages"] * math.ceil(bits / 8)
    coded.stop()


def test_agents_hold_what_they_decode_of_the_merged_networks() -> None:
    """The average at the start, which all know, and of its change the largest numbers."""
    settings = {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"number": 20}}
    coded, alone = shared(parameter_sharing="a_pps", **settings), shared()
    before = {name: value.mean(0) for name, value in online(coded).items()}
    logged = agg(coded.train())
    alone.train()
    changed = 0
    for name, value in online(coded).items():
        assert (value == value[:1]).all()
        own = (value[0] - before[name]).abs() > 1e-7
        torch.testing.assert_close(value[0][own], online(alone)[name].mean(0)[own], rtol=1e-4, atol=1e-6)
        changed += int(own.sum())
    assert changed == 20
    size = sum(value.numel() for value in before.values())
    assert logged["bytes_down"] == 3 * logged["merges"] * math.ceil(20 * (32 + math.ceil(math.log2(size))) / 8)
    coded.stop()
    alone.stop()


def test_a_budget_of_bytes_moves_the_fraction() -> None:
    algorithm = shared(parameter_sharing="a_pps", compression="top_k", budget_bytes_per_update=500)
    logged = agg(algorithm.train())
    assert logged["fraction"] == pytest.approx(0.01 * math.exp(0.25 * (1 - logged["bytes"] / 4 / 500)))  # 4 steps, 1 merge
    algorithm.stop()


def test_moments_are_averaged_over_those_that_send() -> None:
    algorithm = shared(
        parameter_sharing="mean",
        moments="merge",
        communication="random",
        communication_kwargs={"expected_messages": 1, "seed": 2},
    )
    alone = shared()
    algorithm.train()
    alone.train()
    (sender,) = np.flatnonzero(algorithm.server.ledger.messages_per_agent).tolist()
    (_, optimizer), *_ = algorithm.learner.optimizers()
    (_, other), *_ = alone.learner.optimizers()
    for mine, its in zip(algorithm.learner.team.networks.parameters(), alone.learner.team.networks.parameters(), strict=True):
        assert (mine == its[sender]).all()
        assert (optimizer.state[mine]["exp_avg"] == other.state[its]["exp_avg"][sender]).all()
    algorithm.stop()
    alone.stop()


def test_without_a_sender_nothing_merges_and_nothing_is_reset() -> None:
    settings = {"communication": "random", "communication_kwargs": {"expected_messages": 1, "seed": 2}}
    algorithm = shared(parameter_sharing="a_pps", moments="reset", sharing_interval=1, **settings)
    algorithm.train()
    learner, config, spec = algorithm.learner, algorithm.config, algorithm.agents.env.spec
    ledger = Ledger(spec.num_agents)
    merging = NetworkMerging(config.sharing, learner, config.groups(spec), ledger, targets=False, seed=0)
    (_, optimizer), *_ = learner.optimizers()
    outcomes = []
    for _ in range(20):
        for parameter in learner.team.networks.parameters():
            optimizer.state[parameter]["step"].fill_(5)
            optimizer.state[parameter]["exp_avg"].fill_(0.5)
        sent = ledger.messages_per_agent.sum()
        merged = merging.step(algorithm.server.earned, 0)
        assert merged == (ledger.messages_per_agent.sum() > sent)
        for parameter in learner.team.networks.parameters():
            assert optimizer.state[parameter]["step"] == (0 if merged else 5)
            assert (optimizer.state[parameter]["exp_avg"] == (0 if merged else 0.5)).all()
        outcomes.append(merged)
    assert set(outcomes) == {True, False}
    algorithm.stop()


def test_same_starts() -> None:
    for same in (True, False):
        algorithm = shared(same_init=same)
        assert (online(algorithm)["head.weight"] == online(algorithm)["head.weight"][:1]).all() == same
        assert all((value == online(algorithm)[name]).all() for name, value in target(algorithm).items())
        algorithm.stop()


def test_rewards_are_those_of_the_last_episodes() -> None:
    algorithm = shared(parameter_sharing="rs_pps", reward_buffer_size=6)
    played = []
    for _ in range(3):
        algorithm.train()
        played += [credits for group in algorithm.report.played for credits in group.credits]
    np.testing.assert_allclose(algorithm.server.earned, np.sum(played[-6:], axis=0))
    algorithm.stop()
