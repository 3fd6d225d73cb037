"""SAC with aggregation."""

from stable_baselines3 import SAC

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggSAC(OffPolicyAggregationMixin, SAC):
    """SAC whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
