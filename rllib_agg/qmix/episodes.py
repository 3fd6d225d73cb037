"""Whole episodes of a team, in the compact form in which they are sent, stored and sampled.

Axes: k episodes, T time, n agents, d and s sizes of an observation and of the state, a actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_choice
from rllib_agg.envs.team.interface import Bools, TeamSpec

PRECISIONS: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}
"""Data types of observations and states, by name."""

LARGEST_HALF = float(np.finfo(np.float16).max)


def precision(name: Any) -> np.dtype[Any]:
    """The precision of a name; ``ValueError`` if it is none of :data:`PRECISIONS`."""
    check_choice("dtype", name, PRECISIONS)
    return PRECISIONS[name]


def action_dtype(num_actions: int) -> np.dtype[Any]:
    """The smallest integer that names every action."""
    return np.dtype(np.min_scalar_type(num_actions - 1))


@dataclass(frozen=True, slots=True)
class TeamEpisodes:
    """k episodes; rows after an episode's end are zeros.

    :param observations: ``[k, T+1, n, d]``.
    :param states: ``[k, T+1, s]``.
    :param masks: Legal actions as bits ``[k, T+1, n, ceil(a / 8)]``.
    :param actions: ``[k, T, n]``.
    :param rewards: The team's ``[k, T]``.
    :param lengths: Steps ``[k]``.
    :param terminated: Ended by the environment, not cut off ``[k]``.
    """

    observations: NDArray[Any]
    states: NDArray[Any]
    masks: NDArray[np.uint8]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    lengths: NDArray[np.int64]
    terminated: Bools

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def zeros(cls, episodes: int, steps: int, spec: TeamSpec, dtype: np.dtype[Any]) -> TeamEpisodes:
        """Allocate k episodes of T steps; the system assigns memory at the first write."""
        agents = spec.num_agents
        return cls(
            observations=np.zeros((episodes, steps + 1, agents, spec.observation_size), dtype),
            states=np.zeros((episodes, steps + 1, spec.state_size), dtype),
            masks=np.zeros((episodes, steps + 1, agents, -(-spec.num_actions // 8)), np.uint8),
            actions=np.zeros((episodes, steps, agents), action_dtype(spec.num_actions)),
            rewards=np.zeros((episodes, steps), np.float32),
            lengths=np.zeros(episodes, np.int64),
            terminated=np.zeros(episodes, np.bool_),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays().values())

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name."""
        return {name: getattr(self, name) for name in type(self).__dataclass_fields__}

    def take(self, rows: NDArray[Any], steps: int) -> TeamEpisodes:
        """A copy of some episodes, cut to T steps, no less than their lengths."""
        return TeamEpisodes(
            observations=self.observations[rows, : steps + 1],
            states=self.states[rows, : steps + 1],
            masks=self.masks[rows, : steps + 1],
            actions=self.actions[rows, :steps],
            rewards=self.rewards[rows, :steps],
            lengths=self.lengths[rows],
            terminated=self.terminated[rows],
        )

    def longest_first(self) -> TeamEpisodes:
        """The same episodes, by length."""
        if (np.diff(self.lengths) <= 0).all():
            return self
        return self.take(np.argsort(-self.lengths, kind="stable"), self.rewards.shape[1])

    def unpacked_masks(self, num_actions: int) -> Bools:
        """Legal actions ``[k, T+1, n, a]``."""
        return unpack(self.masks, num_actions)


def pack(masks: Bools) -> NDArray[np.uint8]:
    """Write flags as bits ``[..., a] -> [..., ceil(a / 8)]``."""
    return np.packbits(masks, axis=-1)


def unpack(bits: NDArray[np.uint8], num_actions: int) -> Bools:
    """Undo :func:`pack`."""
    return np.unpackbits(bits, axis=-1, count=num_actions).view(np.bool_)


Outcome = tuple[TeamEpisodes, NDArray[np.float64], Bools, Bools]
"""Episodes as they were played, what each agent earned in them ``[E, n]``, and which were won and lost ``[E]``."""


def too_long(spec: TeamSpec) -> RuntimeError:
    """The error of an episode that does not end."""
    return RuntimeError(f"an episode took more than max_episode_steps={spec.max_episode_steps} steps")


def check_masks(masks: Bools) -> None:
    """Raise ``ValueError``, naming an agent, if masks ``[E, n, a]`` leave it no legal action."""
    idle = np.argwhere(~masks.any(-1))
    if len(idle):
        raise ValueError(f"agent {idle[0, 1]} has no legal action; an environment must leave each agent at least one")
