"""Metrics of a team's episodes, in training and in evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rllib_agg.qmix.rollout import Played

WIN_RATE = "win_rate"
AGENT_CREDIT_MEAN = "agent_credit_mean"


def log_played(log: Callable[..., None], played: Played, *, window: int, prefix: tuple[str, ...], credits: bool) -> None:
    """Log returns, lengths and wins of a group's valid episodes, and with ``credits`` what each agent earned.

    :param log: A metrics logger's ``log_value``, with the prefix of every key.
    :param window: Over how many episodes means are taken.
    """
    lengths = played.episodes.lengths
    for index, (score, length) in enumerate(zip(played.returns.tolist(), lengths.tolist(), strict=True)):
        for reduce in ("mean", "min", "max"):  # as RLlib calls them
            log((*prefix, f"episode_return_{reduce}"), score, reduce=reduce, window=window)
            log((*prefix, f"episode_len_{reduce}"), length, reduce=reduce, window=window)
        if played.won is not None:
            log((*prefix, WIN_RATE), float(played.won[index]), reduce="mean", window=window)
        for agent, earned in enumerate(played.credits[index].tolist() if credits else ()):
            log((*prefix, AGENT_CREDIT_MEAN, f"agent_{agent}"), earned, reduce="mean", window=window)


def smoothing(config: Any) -> int:
    """Over how many episodes means are taken."""
    return max(1, int(config.metrics_num_episodes_for_smoothing))
