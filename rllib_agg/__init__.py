"""Aggregation across agents for RLlib's new API stack."""

from rllib_agg.a3c import A3C, A3CConfig
from rllib_agg.ppo import AggPPO, AggPPOConfig

__all__ = ["A3C", "A3CConfig", "AggPPO", "AggPPOConfig"]
