"""Environments, and what makes agents unequal in them.

Importing this package registers the grid worlds with Gymnasium, which dropped its plugins in 1.0. Without an import of your
own, ``gymnasium.make("rl_agg.envs:rl_agg/SimpleGrid-v0")`` imports it by itself.
"""

from rl_agg.envs.registration import register_grids

__all__ = ["register_grids"]

register_grids()
