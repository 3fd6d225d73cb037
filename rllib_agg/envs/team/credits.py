"""Whose merit a team's reward is, where that can be told, and which actions a team may take."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from rllib_agg.envs.team.team import Bools

CREDITS = {
    "contribution": "the part of the team's reward that an agent earned by what it did",
    "env": "the rewards that the environment itself gives to each agent",
    "team": "none: only the team's reward is known",
}
"""What ``agent_rewards`` can be."""


def check_credit(name: str, credit: str, possible: Collection[str]) -> None:
    """Refuse a credit that an environment cannot give.

    :param name: The environment's, for the message.
    :param possible: As :attr:`~rllib_agg.envs.team.team.TeamSpec.credits`; ``team`` always is.
    :raises ValueError: naming the choices.
    """
    if credit != "team" and credit not in possible:
        choices = ", ".join(sorted({*possible, "team"}))
        raise ValueError(f"{name} has no credit {credit!r}; choose from {choices}")


def check_actions(actions: NDArray[np.int64], masks: Bools, going: Bools) -> None:
    """Refuse actions that are not legal in copies whose episode goes on.

    :param actions: ``[E, n]``.
    :param masks: ``[E, n, a]``.
    :param going: ``[E]``.
    :raises ValueError: naming the copy, the agent, the action and the legal ones.
    """
    if actions.shape != masks.shape[:2]:
        raise ValueError(f"actions must have the shape {masks.shape[:2]}, got {actions.shape}")
    bounded = np.clip(actions, 0, masks.shape[2] - 1)
    legal = np.take_along_axis(masks, bounded[:, :, None], axis=2)[:, :, 0] & (bounded == actions)
    if not legal[going].all():
        copy, agent = np.argwhere(~legal & going[:, None])[0].tolist()
        choices = np.flatnonzero(masks[copy, agent]).tolist()
        raise ValueError(f"action {actions[copy, agent]} of agent {agent} in copy {copy} is not legal; choose from {choices}")
