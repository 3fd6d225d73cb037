"""Aggregation across the sub-environments of algorithms that learn from a replay buffer."""
