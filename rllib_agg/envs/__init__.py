"""Environments for RLlib."""
