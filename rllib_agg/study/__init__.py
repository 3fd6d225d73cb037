"""Runs a study's cells with RLlib."""
