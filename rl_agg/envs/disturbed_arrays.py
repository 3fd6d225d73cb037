"""Disturbances of some of A agents, on arrays of all: for environments that step together, as EnvPool's. Axis A: agents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rl_agg.envs.disturbances import Disturbance, check_noisy


class DisturbedArrays:
    """One disturbance, see :class:`~rl_agg.envs.disturbances.Disturbance`.

    Its random numbers are of one stream for all of its agents, where environments in Python have a stream each.

    :param disturbance: Of what agents experience.
    :param space: Of one agent's observations.
    :raises ValueError: if it is one of the environment itself, or does not fit the space.
    """

    def __init__(self, disturbance: Disturbance, space: spaces.Space[Any]) -> None:
        if names := disturbance.of_the_world:
            raise ValueError(
                f"{', '.join(names)} cannot differ among environments that step together in one program; leave the prefix of "
                "the environment's id out, to have one in Python for each agent"
            )
        if disturbance.sensor_noise:
            check_noisy(space)
        self.agents: NDArray[np.int64] = np.unique(list(disturbance.agents))
        self.endless = disturbance.endless
        """Whether episodes never end for its agents."""
        self.pays = disturbance.broken_reward or disturbance.reward_scale != 1.0
        """Whether it changes rewards."""
        self._disturbance = disturbance
        self._bounds = (space.low, space.high) if isinstance(space, spaces.Box) else None
        self._space: Any = batch_space(space, len(self.agents))
        self.seed(None)

    def seed(self, seed: Sequence[int] | None) -> None:
        """Begin the stream of a seed; ``None``: of any."""
        self._generator = np.random.default_rng(seed)
        self._space.seed(int(self._generator.integers(2**31)))

    def disturb_observations(self, observations: NDArray[Any], among: NDArray[np.bool_] | None = None) -> None:
        """Change its agents' observations ``[A, ...]`` in place.

        :param among: Whose are changed, if they are its agents ``[A]``, bool; ``None``: all.
        """
        kept = np.ones(len(self.agents), dtype=np.bool_) if among is None else among[self.agents]
        agents = self.agents[kept]
        if self._disturbance.broken_sensors:
            observations[agents] = self._space.sample()[kept]
        elif self._disturbance.sensor_noise:
            assert self._bounds is not None
            own = observations[agents]
            noisy = own + self._disturbance.sensor_noise * self._generator.standard_normal(own.shape)
            observations[agents] = np.clip(noisy, *self._bounds)

    def disturb_rewards(self, rewards: NDArray[np.float32]) -> None:
        """Change its agents' rewards ``[A]`` in place."""
        if self._disturbance.broken_reward:
            rewards[self.agents] = self._generator.standard_normal(len(self.agents))
        rewards[self.agents] *= self._disturbance.reward_scale
