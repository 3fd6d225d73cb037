"""PPO whose update weighs the agents."""

from rllib_agg.ppo.learner import AggPPOTorchLearner
from rllib_agg.ppo.ppo import AggPPO, AggPPOConfig

__all__ = ["AggPPO", "AggPPOConfig", "AggPPOTorchLearner"]
