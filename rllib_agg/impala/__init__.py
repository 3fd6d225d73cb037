"""IMPALA whose update weighs the agents."""

from rllib_agg.impala.impala import AggIMPALA, AggIMPALAConfig
from rllib_agg.impala.learner import AggIMPALATorchLearner

__all__ = ["AggIMPALA", "AggIMPALAConfig", "AggIMPALATorchLearner"]
