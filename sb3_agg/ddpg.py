"""DDPG with aggregation."""

from stable_baselines3 import DDPG

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggDDPG(OffPolicyAggregationMixin, DDPG):
    """DDPG whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
