"""QRDQN with aggregation."""

from sb3_contrib import QRDQN

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggQRDQN(OffPolicyAggregationMixin, QRDQN):
    """QRDQN whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
