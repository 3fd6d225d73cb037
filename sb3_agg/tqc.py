"""TQC with aggregation."""

from sb3_contrib import TQC

from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin


class AggTQC(OffPolicyAggregationMixin, TQC):
    """TQC whose sub-environments' gradients are weighed by a rule; see
    :class:`~sb3_agg.off_policy.mixin.OffPolicyAggregationMixin`.
    """
