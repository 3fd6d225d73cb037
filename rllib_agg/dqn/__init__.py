"""DQN whose update weighs the agents, or whose agents send the transitions that matter."""

from rllib_agg.dqn.dqn import AggDQN, AggDQNConfig, DeepEBCDQL, DeepEBCDQLConfig
from rllib_agg.dqn.learner import AggDQNTorchLearner

__all__ = ["AggDQN", "AggDQNConfig", "AggDQNTorchLearner", "DeepEBCDQL", "DeepEBCDQLConfig"]
