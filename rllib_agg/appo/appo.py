"""AggAPPO: RLlib's APPO with its config, plus aggregation."""

from __future__ import annotations

from ray.rllib.algorithms.appo import APPO, APPOConfig

from rllib_agg.aggregation._compat import AwaitingRunners
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.appo.learner import AggAPPOTorchLearner
from rllib_agg.impala.impala import AsynchronousSharding


class AggAPPOConfig(AsynchronousSharding, APPOConfig):
    """``APPOConfig`` with aggregation over the agents of each train batch."""

    default_learner = AggAPPOTorchLearner

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or AggAPPO)


class AggAPPO(RestoringAlgorithm, AwaitingRunners, APPO):
    """RLlib's APPO; what else differs is in its learner."""

    config_class = AggAPPOConfig
