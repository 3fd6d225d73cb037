"""AggIMPALA: RLlib's IMPALA with its config, plus aggregation."""

from __future__ import annotations

import math

from ray.rllib.algorithms.impala import IMPALAConfig

from rllib_agg.aggregation._compat import AwaitingRunners
from rllib_agg.aggregation.config import AggConfigMixin
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.impala.learner import AggIMPALATorchLearner


class AsynchronousSharding(AggConfigMixin):
    """Settings that IMPALA's way of spreading samples over learners allows: RLlib hands out whole fragments."""

    def validate(self) -> None:
        """Raise ``ValueError`` if a learner could be left without data: the others would wait for it forever."""
        super().validate()
        if self.num_learners < 2 or self.in_evaluation:
            return
        if self.is_multi_agent:
            raise ValueError(
                f"{type(self).__name__} aggregates several policies on one learner only: with more, RLlib sends batches "
                "that lack a policy. Set num_learners to 0 or 1, or use AggPPOConfig"
            )
        fragment = self.num_envs_per_env_runner * self.get_rollout_fragment_length()
        fragments = math.ceil(self.total_train_batch_size / fragment)
        if not self.num_aggregator_actors_per_learner and fragments < self.num_learners:
            raise ValueError(
                f"a train batch of {self.total_train_batch_size} steps is {fragments} fragments of {fragment}, too few for "
                f"{self.num_learners} learners; raise train_batch_size_per_learner to at least {fragment}"
            )


class AggIMPALAConfig(AsynchronousSharding, IMPALAConfig):
    """``IMPALAConfig`` with aggregation over the agents of each train batch."""

    default_learner = AggIMPALATorchLearner

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AggIMPALA)


class AggIMPALA(RestoringAlgorithm, AwaitingRunners):
    """RLlib's IMPALA; what else differs is in its learner."""

    config_class = AggIMPALAConfig
