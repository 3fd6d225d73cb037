"""Aggregation across agents for RLlib's new API stack."""

from rllib_agg.ppo import AggPPO, AggPPOConfig

__all__ = ["AggPPO", "AggPPOConfig"]
