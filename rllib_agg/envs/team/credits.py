"""The kinds of credit for a team's reward, and the check of a team's actions."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.interface import Bools

CREDITS = ("contribution", "env", "team")
"""Meanings of ``agent_rewards``: the part of the team's reward that an agent earned by its actions; the environment's own
rewards of the agents; none, because only the team's reward is known."""


def check_credit(name: str, credit: str, possible: Collection[str]) -> None:
    """Raise ``ValueError``, naming the choices, if an environment cannot give a credit; it always can give ``team``."""
    if credit != "team" and credit not in possible:
        choices = ", ".join(sorted({*possible, "team"}))
        raise ValueError(f"{name} has no credit {credit!r}; choose from {choices}")


def check_actions(actions: NDArray[np.int64], masks: Bools, active: Bools) -> None:
    """Raise ``ValueError``, naming the legal ones, if an action of an active episode is not legal.

    :param actions: ``[E, n]``.
    :param masks: Legal actions ``[E, n, a]``.
    :param active: Copies whose episode is not over ``[E]``.
    """
    if actions.shape != masks.shape[:2]:
        raise ValueError(f"actions must have the shape {masks.shape[:2]}, got {actions.shape}")
    bounded = np.clip(actions, 0, masks.shape[2] - 1)
    legal = np.take_along_axis(masks, bounded[:, :, None], axis=2)[:, :, 0] & (bounded == actions)
    if not legal[active].all():
        copy, agent = np.argwhere(~legal & active[:, None])[0].tolist()
        choices = np.flatnonzero(masks[copy, agent]).tolist()
        raise ValueError(f"action {actions[copy, agent]} of agent {agent} in copy {copy} is not legal; choose from {choices}")
