"""Random numbers of a run, an update and an agent, the same in every process.

Each triple and purpose has its own stream: Philox is a function of a key, here the run, and a counter, here agent, update and
purpose above 64 bits of position. A learner can draw an agent's numbers again without a message.

Source: Salmon et al. (2011), Parallel random numbers: as easy as 1, 2, 3.
"""

import numpy as np
from numpy.typing import NDArray

PURPOSES = {
    "noise": 0,
    "episodes": 1,
    "actions": 2,
    "chances": 3,
    "start": 4,
    "replay": 5,
    "evaluation": 6,
    "codec": 7,
    "broadcast": 8,
}
LARGEST_EPISODE_SEED = 2**31 - 1
NUMBERS_PER_BLOCK = 8
"""Numbers of 32 bits that Philox makes of one position."""


def fresh_run() -> int:
    """A random run number, from the operating system."""
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])


def stream(purpose: str, run: int, update: int = 0, agent: int = 0) -> np.random.Generator:
    """A stream from its beginning.

    :param purpose: One of :data:`PURPOSES`.
    :param run: In [0, 2^128).
    :param update: In [0, 2^64).
    :param agent: In [0, 2^64).
    """
    return np.random.Generator(np.random.Philox(key=run, counter=[0, agent, update, PURPOSES[purpose]]))


def episode_seeds(run: int, update: int, num_episodes: int) -> NDArray[np.int64]:
    """Seeds of the environments in an update, one for each agent ``[num_episodes]``; the first ones do not depend on their
    number."""
    return stream("episodes", run, update).integers(LARGEST_EPISODE_SEED, size=num_episodes)


def chances(run: int, update: int, num_agents: int) -> NDArray[np.float64]:
    """One uniform number on [0, 1) for each agent ``[num_agents]``; the first ones do not depend on their number."""
    return stream("chances", run, update).random(num_agents)


def uniforms(
    purpose: str, run: int, update: int, agents: NDArray[np.integer], size: int, *, part: int = 0
) -> NDArray[np.float32]:
    """Uniform numbers on [0, 1) of some agents ``[S, size]``; an agent's do not depend on who the others are.

    :param purpose: As for :func:`stream`, as are ``run`` and ``update``.
    :param agents: Their numbers ``[S]``.
    :param part: In [0, 2^64); each has numbers of its own.
    """
    if not len(agents):
        return np.zeros((0, size), np.float32)
    first, last = int(agents.min()), int(agents.max())
    blocks = -(-size // NUMBERS_PER_BLOCK)  # of each agent, at positions behind those of the agents before it
    bits = np.random.Philox(key=run, counter=[first * blocks, part, update, PURPOSES[purpose]])
    rows = np.random.Generator(bits).random((last - first + 1, blocks * NUMBERS_PER_BLOCK), dtype=np.float32)
    return rows[agents - first, :size]
