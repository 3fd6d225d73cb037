"""MaskablePPO with aggregation."""

from sb3_contrib import MaskablePPO

from sb3_agg.mixin import AggregationMixin


class AggMaskablePPO(AggregationMixin, MaskablePPO):
    """PPO with invalid-action masks and weighed gradients; see :class:`~sb3_agg.mixin.AggregationMixin`."""
