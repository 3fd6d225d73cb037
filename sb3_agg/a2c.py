"""A2C with aggregation."""

from stable_baselines3 import A2C

from sb3_agg.mixin import AggregationMixin
from sb3_agg.rollouts.losses import a2c_losses


class AggA2C(AggregationMixin, A2C):
    """A2C whose sub-environments' gradients are weighed by a rule; see :class:`~sb3_agg.mixin.AggregationMixin`.

    A2C takes one gradient step over the whole rollout, so there is no ``batch_size``, and ``minibatches`` decides the order
    of the sum alone.
    """

    sample_losses = staticmethod(a2c_losses)
