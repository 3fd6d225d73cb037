"""SMAX, compiled."""
