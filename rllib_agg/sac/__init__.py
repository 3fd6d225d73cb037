"""SAC whose update weighs the agents."""

from rllib_agg.sac.learner import AggSACTorchLearner
from rllib_agg.sac.sac import AggSAC, AggSACConfig

__all__ = ["AggSAC", "AggSACConfig", "AggSACTorchLearner"]
