"""A replay buffer of whole episodes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rl_agg.validation import check_count, check_number
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.episodes import TeamEpisodes, precision

logger = logging.getLogger(__name__)
GIGABYTE = 1e9


@dataclass(frozen=True)
class ReplaySettings:
    """Size and precision of the replay.

    :param capacity: Number of episodes, >= 1.
    :param dtype: Of observations and states: ``float32``, or ``float16`` for half the memory.
    :param max_gb: The most memory it may take, in gigabytes.
    :raises ValueError: if a setting is out of range.
    """

    capacity: int = 5000
    dtype: str = "float32"
    max_gb: float = 8.0

    def __post_init__(self) -> None:
        check_count("capacity", self.capacity, least=1)
        precision(self.dtype)
        check_number("max_gb", self.max_gb, above=0)

    def bytes_for(self, spec: TeamSpec) -> int:
        """Bytes of the full replay."""
        return self.capacity * TeamEpisodes.zeros(1, spec.max_episode_steps, spec, precision(self.dtype)).nbytes

    def check(self, spec: TeamSpec) -> None:
        """Log how much memory the full replay takes; ``ValueError``, with what would fit, if that is more than the limit."""
        needed = self.bytes_for(spec) / GIGABYTE
        size = (
            f"{self.capacity} episodes of up to {spec.max_episode_steps} steps of {spec.num_agents} agents take "
            f"{needed:.3g} GB in {self.dtype}"
        )
        if needed > self.max_gb:
            half = dataclasses.replace(self, dtype="float16").bytes_for(spec) / GIGABYTE
            fitting = int(self.capacity * self.max_gb / needed)
            remedies = [f"a capacity of {fitting}"] if fitting else []
            remedies += [f"dtype='float16' ({half:.3g} GB)"] if self.dtype == "float32" and half <= self.max_gb else []
            raise ValueError(
                f"the replay is too large: {size}, and max_gb is {self.max_gb:g}. Set in replay_buffer_config "
                + ", ".join([*remedies, "or a larger max_gb" if remedies else "a larger max_gb"])
            )
        logger.info("Replay: %s, when it is full.", size)


class EpisodeReplay:
    """A ring buffer of episodes."""

    def __init__(self, spec: TeamSpec, settings: ReplaySettings) -> None:
        self._stored = TeamEpisodes.zeros(settings.capacity, spec.max_episode_steps, spec, precision(settings.dtype))
        self.capacity = settings.capacity
        self.num_added = 0
        """Episodes since the beginning."""

    def __len__(self) -> int:
        return min(self.num_added, self.capacity)

    @property
    def stored(self) -> TeamEpisodes:
        """All episodes, as they are: rows after an episode's end may be of older ones."""
        return TeamEpisodes(**{name: array[: len(self)] for name, array in self._stored.arrays().items()})

    @property
    def nbytes(self) -> int:
        """Bytes of the full replay."""
        return self._stored.nbytes

    def add(self, episodes: TeamEpisodes) -> None:
        """Store episodes in place of the oldest."""
        rows = (self.num_added + np.arange(len(episodes))) % self.capacity
        rows, kept = rows[-self.capacity :], slice(-self.capacity, None)
        for name, array in episodes.arrays().items():
            target, source = getattr(self._stored, name), array[kept]
            if target.ndim == 1:
                target[rows] = source
            else:  # rows after an episode's end keep older data, which learning ignores
                target[rows, : source.shape[1]] = source
        self.num_added += len(episodes)

    def sample(self, generator: np.random.Generator, size: int) -> TeamEpisodes:
        """Draw at most as many episodes as there are, each once, cut after the longest of them."""
        rows = generator.choice(len(self), size, replace=False)
        return self._stored.take(rows, int(self._stored.lengths[rows].max()))

    def state_dict(self) -> dict[str, Any]:
        """A copy of what is stored."""
        rows = np.arange(len(self))
        longest = int(self._stored.lengths.max())
        return {"num_added": self.num_added, "episodes": self._stored.take(rows, longest).arrays()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; ``ValueError`` if it is of another capacity or of another environment."""
        saved = state["episodes"]
        kept = len(saved["lengths"])
        own = self._stored.arrays()
        fits = all(
            array.dtype == own[name].dtype and array.shape[2:] == own[name].shape[2:] and array.ndim == own[name].ndim
            for name, array in saved.items()
        )
        if kept != min(state["num_added"], self.capacity) or not fits or saved["actions"].shape[1] > own["actions"].shape[1]:
            raise ValueError(
                "the saved replay has another capacity, precision or environment; restore it with the environment and the "
                "replay_buffer_config that it was saved with, or with store_buffer_in_checkpoints=False, which leaves it out"
            )
        self.num_added = 0
        self.add(TeamEpisodes(**saved))
        self.num_added = int(state["num_added"])
