"""Periodic parameter sharing, by names and by groups of agents, against plain sums over agents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from rl_agg import Exchange, Ledger, Signals, weights
from rl_agg.scheme import make_scheme

rewards_of = st.integers(1, 6).flatmap(lambda n: arrays(np.float64, n, elements=st.floats(-1e6, 1e6)))


def networks(num_agents: int, size: int = 60) -> Tensor:
    return torch.randn(num_agents, size, generator=torch.Generator().manual_seed(0))


def merged(aggregation: str, rewards: list[float], **settings: Any) -> Tensor:
    exchange = Exchange(make_scheme(aggregation, settings), len(rewards))
    return exchange.merge(networks(len(rewards)), Signals(returns=rewards)).vector


def by_hand(shares: list[float]) -> np.ndarray:
    """A loop over agents, in double precision."""
    rows = networks(len(shares)).double().numpy()
    return np.asarray(sum(share * row for share, row in zip(shares, rows, strict=True)))


def test_a_pps_is_the_even_average_whatever_was_earned() -> None:
    np.testing.assert_allclose(merged("a_pps", [3.0, 1.0, 0.0, -2.0]), by_hand([0.25] * 4), atol=1e-6)


def test_rs_pps_is_the_papers_formula() -> None:
    np.testing.assert_allclose(merged("rs_pps", [6.0, 3.0, 1.0]), by_hand([0.6, 0.3, 0.1]), atol=1e-6)


def test_rs_pps_of_equal_rewards_is_a_pps_to_the_bit() -> None:
    for reward in (7.3, 0.0, -2.0):
        assert (merged("rs_pps", [reward] * 5) == merged("a_pps", [reward] * 5)).all()


def test_pp_pps_is_rs_pps_of_the_head() -> None:
    scheme = make_scheme("pp_pps", {"interval": 4})
    assert scheme.described["rule"] == make_scheme("rs_pps").described["rule"] == "reward_shares"
    assert (scheme.schedule.interval, scheme.payload.layers) == (4, ("head",))
    assert scheme.payload.selected(["rnn.weight", "head.weight", "head.bias"]) == ["head.weight", "head.bias"]


def test_groups_of_agents_charge_one_ledger() -> None:
    ledger, scheme = Ledger(5), make_scheme("rs_pps", compression="float16")
    for agents in ([0, 2], [1, 3, 4]):
        exchange = Exchange(scheme, len(agents), ledger=ledger, agents=agents)
        present = [agent != 3 for agent in agents]
        exchange.merge(networks(len(agents), 10), Signals(returns=[1.0] * len(agents), present=present))
    assert ledger.messages_per_agent.tolist() == [1, 1, 1, 0, 1]
    assert ledger.bytes_per_agent.tolist() == [24, 24, 24, 0, 24]  # half of 40 bytes, and a scalar
    assert ledger.bytes_down == 5 * 40  # masked agents act by the answer


@given(rewards=rewards_of)
def test_shares_are_shares(rewards: np.ndarray) -> None:
    shares = weights("reward_shares", Signals(returns=rewards))
    assert (shares >= 0).all()
    assert shares.sum().item() == pytest.approx(1)
    assert (shares[rewards == rewards.max()] == shares.max()).all()


@given(rewards=rewards_of, seed=st.integers(0, 100))
def test_relabelling_agents_relabels_shares(rewards: np.ndarray, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(rewards))
    shares = weights("reward_shares", Signals(returns=rewards))
    torch.testing.assert_close(weights("reward_shares", Signals(returns=rewards[order])), shares[order])


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
    np.testing.assert_allclose(weights("reward_shares", Signals(returns=rewards)), shares)
