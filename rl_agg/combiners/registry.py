"""Combiners by name, and one that draws among them. Axes: A agents, P parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_agg.combiners.base import Combiner, check_matrix
from rl_agg.combiners.geometric_median import GeometricMedian
from rl_agg.combiners.krum import Krum
from rl_agg.combiners.torchjd import TorchJD
from rl_agg.combiners.trimmed_mean import Median, TrimmedMean
from rl_agg.validation import build, check_count, unknown_choice


@dataclass(frozen=True)
class MixTailor(Combiner):
    """Another combiner at each step, drawn at random so that no attack can be tailored to it.

    :param combiners: What to draw from: names, or names with their settings.
    :param seed: Together with the step it decides the draw; equal everywhere, all learners draw alike.
    :raises ValueError: if there is nothing to draw from, or one of them is refused.

    Source: Ramezani-Kebrya et al. (2023), algorithm 1.
    """

    combiners: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("median", "trimmed_mean", "krum", "geometric_median")
    seed: int = 0
    _pool: tuple[Combiner, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0)
        if isinstance(self.combiners, str) or not isinstance(self.combiners, Sequence | Mapping) or not self.combiners:
            raise ValueError(f"combiners must be several names, or a mapping of names to settings, got {self.combiners!r}")
        settings = self.combiners if isinstance(self.combiners, Mapping) else {name: {} for name in self.combiners}
        pool = tuple(make_combiner(name, own or {}) for name, own in settings.items())
        object.__setattr__(self, "_pool", pool)

    def check(self, num_agents: int) -> None:
        """Refuse what any of them refuses."""
        for combiner in self._pool:
            combiner.check(num_agents)

    def at(self, step: int) -> Combiner:
        """Draw one."""
        drawn = np.random.default_rng([self.seed, step]).integers(len(self._pool))
        return self._pool[drawn].at(step)

    def state_dict(self) -> dict[str, Any]:
        """What all of them remember."""
        return {"pool": [combiner.state_dict() for combiner in self._pool]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        for combiner, own in zip(self._pool, state.get("pool", ()), strict=False):
            combiner.load_state_dict(own)

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Draw one and let it combine."""
        return self.at(step).merge(gradients, num_masked=num_masked, step=step)


TORCHJD = "torchjd:"

COMBINERS: dict[str, type[Combiner]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "geometric_median": GeometricMedian,
    "mixtailor": MixTailor,
}
"""Combiners by name; ``torchjd:NAME`` adds those of TorchJD."""


def make_combiner(name: str, settings: Mapping[str, Any]) -> Combiner:
    """Build a combiner by name.

    :param name: A name from :data:`COMBINERS`, or ``torchjd:NAME``.
    :param settings: Its settings.
    :raises ValueError: if the name, a setting or a value is unknown.
    :raises ImportError: if TorchJD is asked for and not there.
    """
    if isinstance(name, str) and name.startswith(TORCHJD):
        return TorchJD(name.removeprefix(TORCHJD), settings)
    if name not in COMBINERS:
        raise unknown_choice("combiner", name, [*COMBINERS, "torchjd:NAME"])
    return build(name, COMBINERS[name], settings)


def combine(name: str, gradients: Any, **settings: Any) -> Tensor:
    """Combine gradients by name.

    >>> combine("median", [[0.0], [1.0], [100.0]])
    tensor([1.])

    :param name: As :func:`make_combiner`.
    :param gradients: ``[A, P]``; rows that are not finite are left out.
    :param settings: Settings of the combiner.
    :return: ``[P]``, detached; zeros if no row is finite.
    :raises ValueError: as :func:`make_combiner`, if ``gradients`` is not a matrix, or if the combiner cannot work with A
        agents.
    """
    combiner, matrix = make_combiner(name, settings), torch.as_tensor(gradients).detach()
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.get_default_dtype())
    check_matrix(matrix)
    combiner.check(len(matrix))
    return combiner(matrix, present=matrix.isfinite().all(1))
