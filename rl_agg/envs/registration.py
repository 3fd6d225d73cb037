"""The ids that Gymnasium knows our environments by."""

from __future__ import annotations

import gymnasium as gym

MAX_EPISODE_STEPS = 100
"""Not in the report. Enough that a discount of 0.9 hides what comes after, and what Gymnasium gives its 4x4 Frozen Lake."""

ENTRY_POINTS = {
    "rl_agg/SimpleGrid-v0": "rl_agg.envs.grids:SimpleGrid",
    "rl_agg/WindyGrid-v0": "rl_agg.envs.grids:WindyGrid",
    "rl_agg/FrozenLake5x5-v0": "rl_agg.envs.grids:FrozenLake5x5",
}


def register_grids() -> None:
    """Register what is not registered yet."""
    for id_, entry_point in ENTRY_POINTS.items():
        if id_ not in gym.registry:
            gym.register(id_, entry_point=entry_point, max_episode_steps=MAX_EPISODE_STEPS)
