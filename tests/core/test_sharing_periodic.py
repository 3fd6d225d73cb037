"""Periodic parameter sharing against plain sums over agents."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from rl_agg.payloads import PERIODIC_SHARINGS, PeriodicSharing, a_pps, pp_pps, reward_shares, rs_pps

rewards_of = st.integers(1, 6).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6)))


def parameters(num_agents: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "feature.weight": (3, 4),
        "feature.bias": (1, 4),
        "rnn.weight_hh": (4, 12),
        "head.weight": (4, 2),
        "head.bias": (1, 2),
    }
    return {name: torch.randn(num_agents, *shape, generator=generator) for name, shape in shapes.items()}


def by_hand(stacked: dict[str, Tensor], shares: list[float], name: str) -> np.ndarray:
    """A loop over agents, in double precision."""
    total = np.zeros(stacked[name].shape[1:])
    for agent, share in enumerate(shares):
        total += share * stacked[name][agent].double().numpy()
    return total


def test_a_pps_is_the_even_average_for_all() -> None:
    stacked = parameters(4)
    merged = a_pps(stacked)
    for name in stacked:
        for agent in range(4):
            np.testing.assert_allclose(merged[name][agent], by_hand(stacked, [0.25] * 4, name), atol=1e-6)
            assert (merged[name][agent] == merged[name][0]).all()


def test_rs_pps_is_the_papers_formula() -> None:
    stacked, rewards = parameters(3), [6.0, 3.0, 1.0]
    merged = rs_pps(stacked, torch.tensor(rewards))
    for name in stacked:
        np.testing.assert_allclose(merged[name][1], by_hand(stacked, [0.6, 0.3, 0.1], name), atol=1e-6)


def test_rs_pps_of_equal_rewards_is_a_pps_to_the_bit() -> None:
    stacked = parameters(5)
    for reward in (7.3, 0.0, -2.0):
        merged = rs_pps(stacked, torch.full((5,), reward))
        assert all((merged[name] == value).all() for name, value in a_pps(stacked).items())


@pytest.mark.parametrize("shared", [("head",), ("feature", "rnn")])
def test_pp_pps_leaves_personal_layers_to_the_bit(shared: tuple[str, ...]) -> None:
    stacked, rewards = parameters(3), torch.tensor([1.0, 2.0, 5.0])
    merged, whole = pp_pps(stacked, rewards, shared_layers=shared), rs_pps(stacked, rewards)
    for name, value in merged.items():
        expected = whole if name.split(".")[0] in shared else stacked
        assert (value == expected[name]).all()


def test_types_merge_among_themselves() -> None:
    stacked, types = parameters(4), ("zealot", "stalker", "zealot", "medivac")
    merged = rs_pps(stacked, torch.tensor([3.0, 9.0, 1.0, 2.0]), types=types)
    for name, value in merged.items():
        np.testing.assert_allclose(value[0], by_hand(stacked, [0.75, 0, 0.25, 0], name), atol=1e-6)
        assert (value[2] == value[0]).all()
        assert (value[[1, 3]] == stacked[name][[1, 3]]).all()
    assert PeriodicSharing("a_pps", types=types).speakers(4).tolist() == [True, False, True, False]
    assert PeriodicSharing("a_pps").speakers(2).tolist() == [True, True]
    assert PeriodicSharing("a_pps").speakers(1).tolist() == [False]


def test_nothing_is_changed_in_place_or_differentiated() -> None:
    stacked = {name: value.requires_grad_() for name, value in parameters(2).items()}
    before = {name: value.detach().clone() for name, value in stacked.items()}
    assert not any(value.requires_grad for value in rs_pps(stacked, torch.tensor([1.0, 3.0])).values())
    assert all((stacked[name] == value).all() for name, value in before.items())


@given(rewards=rewards_of)
def test_shares_are_shares(rewards: np.ndarray) -> None:
    shares = reward_shares(torch.from_numpy(rewards))
    assert (shares >= 0).all()
    assert shares.sum().item() == pytest.approx(1)
    assert (shares[rewards == rewards.max()] == shares.max()).all()


@given(rewards=rewards_of, seed=st.integers(0, 100))
def test_relabelling_agents_relabels_shares(rewards: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(rewards))
    shares = reward_shares(torch.from_numpy(rewards))
    torch.testing.assert_close(reward_shares(torch.from_numpy(rewards[order])), shares[order])


@pytest.mark.parametrize(
    ("rewards", "shares"),
    [
        ([2.0, 6.0], [0.25, 0.75]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([4.0, -2.0, -1.0], [6 / 7, 0, 1 / 7]),
        ([-3.0, -3.0, -3.0], [1 / 3] * 3),
        ([5.0], [1.0]),
        ([-5.0], [1.0]),
        ([1e308, 1e308], [0.5, 0.5]),
    ],
)
def test_shares_by_hand(rewards: list[float], shares: list[float]) -> None:
    np.testing.assert_allclose(reward_shares(torch.tensor(rewards, dtype=torch.float64)), shares)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reward_shares(torch.tensor([1.0, torch.nan])), "rewards must be [A] finite numbers, got [1.0, nan]"),
        (lambda: reward_shares(torch.ones(2, 2)), "rewards must be [A] finite numbers"),
        (
            lambda: pp_pps(parameters(2), torch.ones(2), shared_layers=("haed",)),
            "unknown shared layer 'haed' (did you mean 'head'?); choose from feature, head, rnn",
        ),
        (lambda: pp_pps(parameters(2), torch.ones(2), shared_layers=()), "shared_layers must be a sequence of layers' names"),
        (lambda: pp_pps(parameters(2), torch.ones(2), shared_layers="head"), "shared_layers must be a sequence of layers'"),
        (lambda: a_pps(parameters(2), types=("a",)), "types must name one for each of 2 agents, got ('a',)"),
        (
            lambda: PeriodicSharing("b_pps"),
            "unknown scheme 'b_pps' (did you mean 'a_pps'?); choose from a_pps, pp_pps, rs_pps",
        ),
        (lambda: PeriodicSharing("a_pps", interval=0), "sharing_interval must be an integer >= 1, got 0"),
        (lambda: PeriodicSharing("a_pps", moments="mean"), "unknown moments 'mean'"),
        (lambda: PeriodicSharing("a_pps", targets=1), "merge_targets must be True or False, got 1"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_settings_choose_the_scheme() -> None:
    stacked, rewards = parameters(3), torch.tensor([1.0, 2.0, 5.0])
    assert PERIODIC_SHARINGS == ("a_pps", "rs_pps", "pp_pps")
    whole = {"a_pps": a_pps(stacked), "rs_pps": rs_pps(stacked, rewards), "pp_pps": pp_pps(stacked, rewards)}
    for scheme, expected in whole.items():
        sharing = PeriodicSharing(scheme)
        merged = {**stacked, **sharing.merge(sharing.shared(stacked), rewards)}
        assert all((merged[name] == value).all() for name, value in expected.items())
