"""The agents' contributions to a step, in battles that only report the team's reward.

Axes: n allies, m enemies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.interface import Floats

KILL = 10.0
"""Points for a kill, SMAC's and SMAClite's default."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strength:
    """Health and shield of all units, 0 of the dead: ``[n]`` and ``[m]``."""

    allies: Numbers
    enemies: Numbers

    @classmethod
    def of(cls, allies: Mapping[int, Any], n: int, enemies: Mapping[int, Any], m: int, *, health: str) -> Strength:
        """Read it from the units by number, the dead of which may be missing; ``health`` is the attribute to read."""
        sides = []
        for units, size in ((allies, n), (enemies, m)):
            row = np.zeros(size)
            for number, unit in units.items():
                points = getattr(unit, health)
                row[number] = points + unit.shield if points > 0 else 0.0
            sides.append(row)
        return cls(*sides)


@dataclass(frozen=True, slots=True)
class Orders:
    """The allies' actions on units.

    :param targets: Number of the unit that each acts on ``[n]``, negative: none.
    :param heals: Whether that is an ally to heal, and not an enemy to attack ``[n]``.
    """

    targets: NDArray[np.int64]
    heals: NDArray[np.bool_]


def contributions(shaped: float, orders: Orders, before: Strength, after: Strength) -> Floats:
    """Split a step's reward in proportion to points: damage, kills and healing.

    What an enemy lost, and :data:`KILL` points if it died, is split evenly among the allies whose order was to attack it in
    this step; what an ally gained, among those whose order was to heal it. The game does not report hits, so this is an
    estimate that treats all attackers of one enemy as equal.

    :param shaped: The team's reward, without that for a win or a defeat.
    :param before: Before the step.
    :param after: After it.
    :return: ``[n]``, summing to ``shaped``; equal shares if no agent has a point.
    """
    points = np.zeros(len(orders.targets))
    lost = np.maximum(before.enemies - after.enemies, 0.0)
    lost += KILL * ((before.enemies > 0) & (after.enemies <= 0))
    gained = np.where(after.allies > 0, np.maximum(after.allies - before.allies, 0.0), 0.0)
    for heals, worth in ((False, lost), (True, gained)):
        for unit in np.flatnonzero(worth).tolist():
            acting = (orders.targets == unit) & (orders.heals == heals)
            points[acting] += worth[unit] / max(int(acting.sum()), 1)
    total = points.sum()
    shares = points / total if total > 0 else np.full(len(points), 1.0 / len(points))
    return (shaped * shares).astype(np.float32)
