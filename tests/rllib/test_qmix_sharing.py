"""Periodic parameter sharing inside QMIX, VDN and independent learners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_agg.payloads import pp_pps, rs_pps
from rllib_agg import QMIX, QMIXConfig

pytestmark = pytest.mark.usefixtures("ray_session", "corridor")


def built(**training: Any) -> QMIX:
    config = QMIXConfig().environment("walk/corridor").env_runners(num_env_runners=0, num_envs_per_env_runner=4)
    config.rl_module(model_config={"hidden_dim": 8, "hypernet_dim": 8})
    settings = {"train_batch_size_per_learner": 4, "sharing_interval": 4, "same_init": False, "epsilon": 1.0, **training}
    return config.training(**settings).debugging(seed=3).build_algo()


def online(algorithm: QMIX) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.learner.team.networks.named_parameters()}


def target(algorithm: QMIX) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.learner.team.target_networks.named_parameters()}


@pytest.mark.parametrize("mixer", ["qmix", "vdn", None])
def test_a_pps_makes_online_networks_equal(mixer: str | None) -> None:
    algorithm, alone = built(mixer=mixer, parameter_sharing="a_pps"), built(mixer=mixer)
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


def test_rs_pps_weighs_by_what_each_earned() -> None:
    algorithm, alone = built(parameter_sharing="rs_pps"), built(credit="contribution")
    algorithm.train()
    alone.train()
    assert algorithm.config.credit_for(algorithm.agents.env.spec) == "contribution"
    earned = np.sum([played.credits.sum(0) for played in algorithm.report.played], axis=0)
    assert len(set(earned.tolist())) == 3
    assert (algorithm.centre.earned == earned).all()
    assert (alone.centre.earned == earned).all()
    expected = rs_pps(online(alone), torch.from_numpy(earned))
    for name, value in online(algorithm).items():
        assert (value == expected[name]).all()
        by_hand = sum(share * online(alone)[name][agent].double() for agent, share in enumerate(earned / earned.sum()))
        torch.testing.assert_close(value[1].double(), by_hand, rtol=1e-5, atol=1e-6)
    algorithm.stop()
    alone.stop()


def test_rs_pps_with_team_credit_is_a_pps_and_warns() -> None:
    with pytest.warns(
        UserWarning, match="parameter_sharing='rs_pps' with credit='team' counts all agents alike, which is 'a_pps'"
    ):
        algorithm = built(parameter_sharing="rs_pps", credit="team")
    plain = built(parameter_sharing="a_pps")
    for _ in range(3):
        algorithm.train()
        plain.train()
    assert all((value == online(plain)[name]).all() for name, value in online(algorithm).items())
    algorithm.stop()
    plain.stop()


@pytest.mark.parametrize("shared", [("head",), ("feature", "rnn")])
def test_pp_pps_leaves_personal_layers_to_the_bit(shared: tuple[str, ...]) -> None:
    algorithm, alone = built(parameter_sharing="pp_pps", shared_layers=shared), built(credit="contribution")
    algorithm.train()
    alone.train()
    expected = pp_pps(online(alone), torch.from_numpy(alone.centre.earned), shared_layers=shared)
    for name, value in online(algorithm).items():
        assert (value == expected[name]).all()
        assert (value == value[:1]).all() == (name.split(".")[0] in shared)
    algorithm.stop()
    alone.stop()


def test_types_merge_among_themselves() -> None:
    algorithm = built(parameter_sharing="a_pps", within_type=True)
    algorithm.train()
    weight = online(algorithm)["head.weight"]
    assert (weight[1] == weight[2]).all()
    assert not (weight[0] == weight[1]).all()
    assert algorithm.centre.ledger.messages_per_agent.tolist() == [0, 1, 1]
    algorithm.stop()


@pytest.mark.parametrize("moments", ["keep", "merge", "reset"])
def test_targets_and_moments(moments: str) -> None:
    algorithm, alone = built(parameter_sharing="a_pps", merge_targets=True, moments=moments), built()
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
    algorithm = built(parameter_sharing="pp_pps", shared_layers=("feature", "rnn"), moments="merge")
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
    algorithm = built(**settings)
    for _ in range(3):
        result = algorithm.train()
    logged = result["learners"]["default_policy"]["agg"]
    sizes = {"feature": (4 + 3) * 8 + 8, "rnn": 2 * (8 * 24 + 24), "head": 8 * 3 + 3}
    numbers = copies * sum(sizes[layer] for layer in layers)
    merges = 3 if layers else 0
    assert logged["merges"] == merges
    assert logged["messages"] == 3 * merges
    assert logged["bytes"] == 3 * merges * 4 * (numbers + scalars)
    assert logged["bytes_down"] == 3 * merges * 4 * numbers
    algorithm.stop()


def test_same_starts() -> None:
    for same in (True, False):
        algorithm = built(same_init=same)
        assert (online(algorithm)["head.weight"] == online(algorithm)["head.weight"][:1]).all() == same
        assert all((value == online(algorithm)[name]).all() for name, value in target(algorithm).items())
        algorithm.stop()


def test_rewards_are_those_of_the_last_episodes() -> None:
    algorithm = built(parameter_sharing="rs_pps", reward_buffer_size=6)
    played = []
    for _ in range(3):
        algorithm.train()
        played += [credits for group in algorithm.report.played for credits in group.credits]
    np.testing.assert_allclose(algorithm.centre.earned, np.sum(played[-6:], axis=0))
    algorithm.stop()
