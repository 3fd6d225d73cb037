"""A3C, which RLlib removed in 2.8, on the new API stack."""

from rllib_agg.a3c.a3c import A3C, A3CConfig
from rllib_agg.a3c.env_runner import A3CEnvRunner
from rllib_agg.a3c.learner import A3CTorchLearner

__all__ = ["A3C", "A3CConfig", "A3CEnvRunner", "A3CTorchLearner"]
