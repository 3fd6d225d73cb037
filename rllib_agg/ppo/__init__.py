"""PPO whose update weighs the agents."""

from rllib_agg.ppo.config import AggPPO, AggPPOConfig
from rllib_agg.ppo.learner import AggPPOTorchLearner

__all__ = ["AggPPO", "AggPPOConfig", "AggPPOTorchLearner"]
