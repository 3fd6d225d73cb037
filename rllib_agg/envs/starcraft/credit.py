"""Whose merit a step was, in battles that only tell the team's reward.

Axes: n allies, m enemies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.team import Floats

KILL = 10.0
"""Points that a kill brings, as SMAC and SMAClite count by default."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Strength:
    """Health and shield of all units, 0 of the dead: ``[n]`` and ``[m]``."""

    allies: Numbers
    enemies: Numbers


@dataclass(frozen=True, slots=True)
class Orders:
    """What the allies were told to do.

    :param targets: The number of the unit that each acts on ``[n]``, negative: none.
    :param heals: Whether that is an ally to be healed ``[n]``.
    """

    targets: NDArray[np.int64]
    heals: NDArray[np.bool_]


def contributions(shaped: float, orders: Orders, before: Strength, after: Strength, *, kill: float = KILL) -> Floats:
    """Split a step's reward in proportion to points: damage, kills and healing.

    What an enemy lost, and ``kill`` points if it died, is split evenly among those who were told to attack it in this step;
    what an ally gained, among those told to heal it. The game does not say who hit, so this is an estimate: it takes those
    who shoot at one enemy as equal.

    :param shaped: The team's reward, without what is given for a win or a defeat.
    :param before: Before the step.
    :param after: After it.
    :return: ``[n]``, with the sum ``shaped``: evenly if nobody has a point.
    """
    points = np.zeros(len(orders.targets))
    lost = np.maximum(before.enemies - after.enemies, 0.0)
    lost += kill * ((before.enemies > 0) & (after.enemies <= 0))
    gained = np.where(after.allies > 0, np.maximum(after.allies - before.allies, 0.0), 0.0)
    for heals, worth in ((False, lost), (True, gained)):
        for unit in np.flatnonzero(worth).tolist():
            acting = (orders.targets == unit) & (orders.heals == heals)
            points[acting] += worth[unit] / max(int(acting.sum()), 1)
    total = points.sum()
    shares = points / total if total > 0 else np.full(len(points), 1.0 / len(points))
    return (shaped * shares).astype(np.float32)
