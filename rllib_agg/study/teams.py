"""A study's runner for teams: QMIX, VDN, independent Q-learning. Axis n: agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rl_agg.study.analysis.costs import WIN_RATE
from rllib_agg.qmix import QMIX
from rllib_agg.study.base import STEPS, Observed, agg_scalars
from rllib_agg.study.server_loop import ServerLoopRunner


class TeamRunner(ServerLoopRunner):
    """Takes ``evaluation_interval`` and ``evaluation_duration`` as well: an update then is what lies between two evaluations,
    and its return and wins are those of the greedy team; without them it is a ``train()``, with those of its last round.
    Each agent's return is what it earned in the last round of training, in both cases.
    ``min_sample_timesteps_per_iteration`` makes a ``train()`` longer.

    The environment's ``num_agents`` are copies that play in parallel.
    """

    num_agents = "num_envs_per_env_runner"
    elsewhere: ClassVar = {
        "model_config": "rl_module",
        "evaluation_interval": "evaluation",
        "evaluation_duration": "evaluation",
        "min_sample_timesteps_per_iteration": "reporting",
    }

    def observe(self, algorithm: QMIX, result: Mapping[str, Any]) -> Observed | None:
        """The last round's episodes, or those of an evaluation."""
        played = algorithm.report.played
        agents = np.concatenate([group.credits for group in played]).mean(axis=0)  # [n]
        scalars = agg_scalars(result)
        interval = algorithm.config.evaluation_interval
        if interval:
            if result["training_iteration"] % interval:  # between two of them RLlib repeats the last one's
                return None
            found = result["evaluation"]["env_runners"]
            mean, won, episodes = found["episode_return_mean"], found.get("win_rate"), found["num_episodes"]
        else:
            mean = np.concatenate([group.returns for group in played]).mean()
            wins = [group.won for group in played if group.won is not None]
            won = np.concatenate(wins).mean() if wins else None
            episodes = sum(len(group.episodes) for group in played)
        if won is not None:
            scalars[WIN_RATE] = float(won)
        return Observed(int(result[STEPS]), float(mean), int(episodes), agents.tolist(), scalars)
