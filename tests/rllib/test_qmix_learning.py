"""QMIX learns to win small battles and to forage, on a machine of two cores."""

from __future__ import annotations

import time

import pytest

from rllib_agg import QMIXConfig

MINUTES = 30


def best(config: QMIXConfig, figure: str, goal: float) -> float:
    """The best of the evaluations, which end when the goal is reached or the time is over."""
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=8).evaluation(evaluation_duration=64)
    algorithm = config.reporting(min_sample_timesteps_per_iteration=10_000).debugging(seed=0).build_algo()
    found, end = 0.0, time.monotonic() + 60 * MINUTES
    while found < goal and time.monotonic() < end:
        algorithm.train()
        found = max(found, float(algorithm.evaluate()["env_runners"][figure]))
    algorithm.stop()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["full", "a_pps"])
def test_smax_3m_is_won(sharing: str, ray_session: None) -> None:
    pytest.importorskip("jaxmarl", reason="needs the extra marl")
    settings = {"td_lambda": 0.6, "reward_scale": 10.0, "updates_per_episode": 0.5}
    config = QMIXConfig().environment("smax/3m").training(parameter_sharing=sharing, **settings)
    assert best(config, "win_rate", 0.8) >= 0.8


@pytest.mark.slow
def test_lbf_is_solved(ray_session: None) -> None:
    pytest.importorskip("lbforaging", reason="needs the extra marl")
    settings = {
        "td_lambda": 0.8,
        "bootstrap_at_time_limit": False,
        "reward_scale": 10.0,
        "epsilon": [[0, 1.0], [200_000, 0.05]],
    }
    config = QMIXConfig().environment("lbf/Foraging-8x8-2p-2f-coop-v3").training(parameter_sharing="full", **settings)
    assert best(config, "episode_return_mean", 0.9) >= 0.9
