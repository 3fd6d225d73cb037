"""Backends that compute each agent's own gradient from one evaluation of the policy."""
