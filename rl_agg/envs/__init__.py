"""Grid worlds, and disturbances that make agents unequal.

Importing this package registers the grid worlds with Gymnasium, which dropped its plugins in 1.0.
``gymnasium.make("rl_agg.envs:rl_agg/SimpleGrid-v0")`` imports it by itself.
"""

import gymnasium as gym

from rl_agg.envs.grids import ENTRY_POINTS, MAX_EPISODE_STEPS

for _id in ENTRY_POINTS.keys() - gym.registry.keys():
    gym.register(_id, entry_point=ENTRY_POINTS[_id], max_episode_steps=MAX_EPISODE_STEPS)
