"""APPO whose update weighs the agents."""

from rllib_agg.appo.appo import AggAPPO, AggAPPOConfig
from rllib_agg.appo.learner import AggAPPOTorchLearner

__all__ = ["AggAPPO", "AggAPPOConfig", "AggAPPOTorchLearner"]
