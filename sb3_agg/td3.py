"""TD3 with aggregation."""

from stable_baselines3 import TD3

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggTD3(OffPolicyAggregationMixin, TD3):
    """TD3 whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
