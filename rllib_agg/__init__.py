"""Aggregation across agents for RLlib's new API stack."""
