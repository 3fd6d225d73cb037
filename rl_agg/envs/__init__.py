"""Environments, and what makes agents unequal in them."""
