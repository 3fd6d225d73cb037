"""PPO with aggregation."""

from stable_baselines3 import PPO

from sb3_agg.mixin import AggregationMixin


class AggPPO(AggregationMixin, PPO):
    """PPO whose sub-environments' gradients are weighed by a rule; see :class:`~sb3_agg.mixin.AggregationMixin`."""
