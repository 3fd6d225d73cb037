"""Grid worlds, a maze, a task of many goals, and disturbances that make agents unequal.

Importing this package registers the environments with Gymnasium, which dropped its plugins in 1.0.
``gymnasium.make("rl_agg.envs:rl_agg/SimpleGrid-v0")`` imports it by itself.
"""

import gymnasium as gym

from rl_agg.envs import goal_reacher, grids, maze

for _module in (goal_reacher, grids, maze):
    for _id in _module.ENTRY_POINTS.keys() - gym.registry.keys():
        gym.register(_id, entry_point=_module.ENTRY_POINTS[_id], max_episode_steps=_module.MAX_EPISODE_STEPS)
