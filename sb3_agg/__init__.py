"""Aggregation across sub-environments for Stable-Baselines3."""
