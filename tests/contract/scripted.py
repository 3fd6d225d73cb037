"""What a few agents see, do and earn, whichever host they are trained in. Axes: A agents, T steps of a rollout."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

AGENTS, STEPS = 5, 12  # Krum needs five agents to tolerate one


@dataclass
class Chunk:
    """A part of an episode of one agent, all of it in one rollout.

    :param observations: ``[n + 1, 4]``.
    :param actions: ``[n]``.
    :param rewards: ``[n]``.
    :param name: Of the episode.
    :param started: Steps of the episode that came before.
    :param end: ``"terminated"``, ``"truncated"`` or ``"running"``.
    :param log_probs: Of the actions, by the weights that act ``[n]``.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    name: str
    started: int
    end: str
    log_probs: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


Rollout = list[list[Chunk]]
"""Chunks of each agent."""

ROLLOUTS = 4
ENDS = [  # of each agent, the steps at which its episodes end
    {4: "terminated", 9: "truncated", 17: "terminated", 40: "truncated"},
    {6: "truncated", 12: "terminated", 20: "terminated", 33: "terminated"},
    {5: "terminated", 30: "terminated"},
    {24: "terminated"},
    {},  # finishes none
]


def rollouts(broken: int | None = None) -> list[Rollout]:
    """What A agents see, do and earn; episodes go on from one rollout to the next.

    :param broken: An agent whose reward is NaN once in the second.
    """
    generator = np.random.default_rng(0)
    made: list[Rollout] = [[[] for _ in range(AGENTS)] for _ in range(ROLLOUTS)]
    for agent, ends in enumerate(ENDS):
        begin = started = episode = 0
        first = generator.normal(size=4)
        for cut in sorted({*ends, *range(STEPS, (ROLLOUTS + 1) * STEPS, STEPS)}):
            n = cut - begin
            observations = np.concatenate([first[None], generator.normal(size=(n, 4))]).astype(np.float32)
            rewards = generator.normal(agent, 1.0, n).astype(np.float32)
            if agent == broken and begin == STEPS:
                rewards[1] = np.nan
            end = ends.get(cut, "running")
            chunk = Chunk(observations, generator.integers(0, 2, n), rewards, f"{agent}-{episode}", started, end)
            made[begin // STEPS][agent].append(chunk)
            if end == "running":
                started, first = started + n, observations[-1]
            else:
                episode, started, first = episode + 1, 0, generator.normal(size=4)
            begin = cut
    return made
