"""DQN with aggregation."""

from stable_baselines3 import DQN

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggDQN(OffPolicyAggregationMixin, DQN):
    """DQN whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
