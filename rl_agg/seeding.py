"""Random numbers that belong to a run, an update and an agent, and are the same wherever they are drawn.

Each triple and purpose has a stream of its own: Philox is a function of a key, here the run, and a counter, here agent, update
and purpose above 64 bits of position. Nothing needs to be sent for a learner to know what an agent drew.

Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PURPOSES = {"noise": 0, "episodes": 1, "actions": 2, "chances": 3, "start": 4, "replay": 5, "evaluation": 6}
LARGEST_EPISODE_SEED = 2**31 - 1


def fresh_run() -> int:
    """A run that nobody has drawn from, from the operating system."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])


def stream(purpose: str, run: int, update: int = 0, agent: int = 0) -> np.random.Generator:
    """Open a stream at its beginning.

    :param purpose: One of :data:`PURPOSES`.
    :param run: In [0, 2^128).
    :param update: In [0, 2^64).
    :param agent: In [0, 2^64).
    """
    return np.random.Generator(np.random.Philox(key=run, counter=[0, agent, update, PURPOSES[purpose]]))


def episode_seeds(run: int, update: int, num_episodes: int) -> NDArray[np.int64]:
    """What to seed the environments of an update with, one for each agent ``[num_episodes]``; the first do not depend on how
    many there are."""
    return stream("episodes", run, update).integers(LARGEST_EPISODE_SEED, size=num_episodes)


def chances(run: int, update: int, num_agents: int) -> NDArray[np.float64]:
    """One uniform number on [0, 1) for each agent ``[num_agents]``; the first do not depend on how many there are."""
    return stream("chances", run, update).random(num_agents)
