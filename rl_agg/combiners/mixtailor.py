"""MixTailor. Axes: A agents, P parameters."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rl_agg.combiners.base import Combiner
from rl_agg.validation import check_count


@dataclass(frozen=True)
class MixTailor(Combiner):
    """Another combiner at each step, drawn at random so that no attack can be tailored to it.

    :param combiners: What to draw from: names, or names with their settings.
    :param seed: Together with the step it decides the draw, so that all learners draw alike; ``None``: the run's.
    :raises ValueError: if there is none, or one of them has an unknown name or setting.

    Source: Ramezani-Kebrya et al. (2023), algorithm 1.
    """

    combiners: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("median", "trimmed_mean", "krum", "geometric_median")
    seed: int | None = None
    _pool: tuple[Combiner, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from rl_agg.combiners import make_combiner  # which lists this class

        if self.seed is not None:
            check_count("seed", self.seed, least=0)
        if isinstance(self.combiners, str) or not isinstance(self.combiners, Sequence | Mapping) or not self.combiners:
            raise ValueError(f"combiners must be several names, or a mapping of names to settings, got {self.combiners!r}")
        settings = self.combiners if isinstance(self.combiners, Mapping) else {name: {} for name in self.combiners}
        pool = tuple(make_combiner(name, own or {}) for name, own in settings.items())
        object.__setattr__(self, "_pool", pool)

    def check(self, num_agents: int) -> None:
        """Raise if any of them raises."""
        for combiner in self._pool:
            combiner.check(num_agents)

    def seeded(self, run: int) -> Combiner:
        """The same, drawing by the run's seed unless it has one."""
        return dataclasses.replace(self, seed=run) if self.seed is None else self

    def at(self, step: int) -> Combiner:
        """Draw one."""
        drawn = np.random.default_rng([self.seed or 0, step]).integers(len(self._pool))
        return self._pool[drawn].at(step)

    def state_dict(self) -> dict[str, Any]:
        """The states of all of them."""
        return {"pool": [combiner.state_dict() for combiner in self._pool]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for combiner, own in zip(self._pool, state.get("pool", ()), strict=False):
            combiner.load_state_dict(own)

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Draw one and let it combine."""
        return self.at(step).merge(gradients, num_masked=num_masked, step=step)
