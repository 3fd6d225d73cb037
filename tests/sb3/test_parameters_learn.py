"""Krum over parameters tolerates two of eight agents that send theirs with the opposite sign; an average collapses."""

from __future__ import annotations

from typing import Any

import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_agg import AggPPO
from tests.sb3.worlds import cartpoles

pytestmark = pytest.mark.slow

AGENTS, STEPS, UPDATES = 8, 128, 25
ATTACK = {"kind": "sign_flip", "agents": [0, 1]}  # (6 - 2) / 8: an average halves the parameters in every update


def greedy_return(seed: int, **settings: Any) -> float:
    """Mean return of the merged policy over twelve episodes, after 25 600 steps under attack."""
    sizes = {"n_steps": STEPS, "batch_size": 32 * AGENTS, "n_epochs": 5, "learning_rate": 2e-3}
    policy = {"net_arch": [32, 32]}
    exchanged = {"payload": "parameters", "attack": ATTACK}
    model = AggPPO(
        "MlpPolicy", cartpoles(AGENTS, seed), **sizes, policy_kwargs=policy, seed=seed, device="cpu", **exchanged, **settings
    )
    model.learn(UPDATES * STEPS * AGENTS)
    mean, _ = evaluate_policy(model, cartpoles(4, 100 + seed), n_eval_episodes=12)
    return float(mean)


@pytest.mark.parametrize("seed", [0, 1])
def test_krum_keeps_learning(seed: int) -> None:
    assert greedy_return(seed, aggregation="krum", aggregation_kwargs={"num_byzantine": 2}) > 100


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("aggregation", ["mean", "fedavg"])
def test_an_average_collapses(aggregation: str, seed: int) -> None:
    assert greedy_return(seed, aggregation=aggregation) < 40
