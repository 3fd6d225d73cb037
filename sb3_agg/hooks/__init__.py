"""Hooks into the update that Stable-Baselines3's own ``train()`` makes."""
