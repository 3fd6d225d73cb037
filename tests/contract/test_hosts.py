"""One semantics for both hosts: the same rollouts give the same advantages, gradients, weights and messages.

Each host has its own estimation of advantages, loss and backward pass; what they share is the core. Local models are left out:
an agent is a sub-environment under SB3, and a learner under RLlib where parameters are exchanged.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from tests.contract.scripted import AGENTS, STEPS, rollouts
from tests.contract.two_hosts import SB3, RLlib
from tests.rllib.groups import MODULE

BROADCAST = {"broadcast_compression_kwargs": {"fraction": 0.3}}
LAG = {"communication": "lag", "communication_kwargs": {"xi": 2.0}}
MORE_RULES = ("snr_weighted", "equal_norms", "guarded")
SYSTEMS: dict[str, dict[str, Any]] = {
    **{rule: {"aggregation": rule} for rule in ("mean", "sum", "samples", "r_weighted", "l_weighted")},
    **{combiner: {"aggregation": combiner} for combiner in ("median", "krum", "trimmed_mean")},
    **{rule: {"aggregation": rule} for rule in ("e_weighted", "agreement", *MORE_RULES)},
    "lag": {"aggregation": "mean", **LAG},
    "lag_r_weighted": {"aggregation": "r_weighted", **LAG},
    "float16": {"aggregation": "mean", "compression": "float16"},
    "bfloat16": {"aggregation": "mean", "compression": "bfloat16"},
    # Gradients of two actions are opposite, so that rounding would decide which of both is the K-th by magnitude
    "top_k": {"aggregation": "mean", "compression": "top_k", "compression_kwargs": {"fraction": 1.0}},
    "random_k": {"aggregation": "r_weighted", "compression": "random_k", "compression_kwargs": {"fraction": 0.3}},
    "sign": {"aggregation": "mean", "compression": "sign", "compression_kwargs": {"error_feedback": "ef21"}},
    "quantize": {"aggregation": "mean", "compression": "quantize", "compression_kwargs": {"error_feedback": False}},
    "ternary": {"aggregation": "mean", "compression": "ternary"},
    "chain": {"aggregation": "mean", "compression": ("random_k", "float16"), "compression_kwargs": {"fraction": 0.3}},
    "interval": {"aggregation": "l_weighted", "interval": 2},
    "broadcast": {"aggregation": "l_weighted", "broadcast_compression": "random_k", **BROADCAST},
    "broadcast_krum": {"aggregation": "krum", "broadcast_compression": ("random_k", "float16"), **BROADCAST},
    "budget": {"aggregation": "mean", "compression": "random_k", "budget_bytes_per_update": 400},
    "all_axes": {
        "aggregation": "median",
        **LAG,
        "compression": "float16",
        "interval": 2,
        "broadcast_compression": "random_k",
        **BROADCAST,
        "budget_bytes_per_update": 700,
    },
}
LEDGER = ("messages", "bytes", "bytes_down")


@pytest.fixture(scope="module")
def spaces() -> dict[str, Any]:
    env = gym.make("CartPole-v1")
    return {MODULE: (env.observation_space, env.action_space)}


@pytest.mark.filterwarnings("ignore:agent 2 had a NaN")
@pytest.mark.parametrize("broken", [None, 2], ids=["all", "one_masked"])
@pytest.mark.parametrize(
    "system", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE_RULES else []) for name in SYSTEMS]
)
def test_the_same_rollouts_give_the_same_numbers(system: str, broken: int | None, spaces: dict[str, Any]) -> None:
    """An agent that is rewarded NaN in the second rollout is masked in it, and in the third, in which that episode ends."""
    sb3 = SB3(**SYSTEMS[system])
    rllib = RLlib(sb3, spaces, **SYSTEMS[system])
    for rollout, masked in zip(rollouts(broken), [0, 0, 0, 0] if broken is None else [0, 1, 1, 0], strict=True):
        sb3.note_log_probs(rollout)
        one, other = sb3.update(rollout), rllib.update(rollout)
        finite = [all(np.isfinite(chunk.rewards).all() for chunk in chunks) for chunks in rollout]
        assert one.advantages.shape == (AGENTS, STEPS)
        np.testing.assert_allclose(other.advantages[finite], one.advantages[finite], atol=1e-5)
        assert len(one.gradients) == len(other.gradients) > 0
        error = (other.gradients - one.gradients).norm(dim=1) / one.gradients.norm(dim=1)
        assert error.max() < (1e-3 if system == "bfloat16" else 1e-4)  # whose numbers are further apart
        # A gradient between two numbers of half precision may be rounded to either
        torch.testing.assert_close(
            other.parameters, one.parameters, rtol=1e-4, atol=3e-5 if "compression" in SYSTEMS[system] else 1e-5
        )
        assert {name: other.logged[name] for name in LEDGER} == {name: one.logged[name] for name in LEDGER}
        assert other.logged == pytest.approx(one.logged, rel=1e-4)  # the weights, and who was masked
        assert one.logged["masked_agents"] == masked
    ledgers = sb3.model.ledger, rllib.ledger
    assert ledgers[0].state_dict() == ledgers[1].state_dict()
    if "communication" in SYSTEMS[system]:
        exchanges = sb3.model.exchange.num_exchanges
        possible = exchanges * AGENTS - (0 if broken is None else exchanges // 2)  # masked in two of four rollouts
        assert AGENTS <= ledgers[0].messages < possible


def test_the_rollouts_hold_what_hosts_could_disagree_about() -> None:
    """PPO clips, episodes go on from rollout to rollout or are truncated, and one agent has no return."""
    sb3, clipped = SB3(), []
    for rollout in rollouts():
        sb3.note_log_probs(rollout)
        sb3.update(rollout)
        clipped.append(sb3.model.logger.name_to_value["train/clip_fraction"])
    assert max(clipped) > 0.05
    chunks = [chunk for rollout in rollouts() for chunks in rollout for chunk in chunks]
    assert any(chunk.started and chunk.end == "terminated" for chunk in chunks)
    assert any(chunk.end == "truncated" for chunk in chunks)
    assert np.isnan(sb3.model.agent_returns).tolist() == [False] * 4 + [True]
