"""Agents with parameters of their own."""
