"""A pytest plugin that puts our classes in place of Stable-Baselines3's and sb3-contrib's, where tests import them."""

from __future__ import annotations

import os

import sb3_contrib
import stable_baselines3

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO

AGGREGATION = "RL_AGG_AGGREGATION"
"""Which ``aggregation`` they have unless a test says otherwise; not set: stock's classes stay."""


def pytest_configure() -> None:
    """Replace the classes before test modules are imported."""
    aggregation = os.environ.get(AGGREGATION)
    if aggregation is None:
        return
    for package, name, ours in (
        (stable_baselines3, "PPO", AggPPO),
        (stable_baselines3, "A2C", AggA2C),
        (sb3_contrib, "MaskablePPO", AggMaskablePPO),
        (sb3_contrib, "RecurrentPPO", AggRecurrentPPO),
    ):
        setattr(package, name, _with_default(name, ours, aggregation))


def _with_default(name: str, ours: type, aggregation: str) -> type:
    def __init__(self: object, policy: object, env: object, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("aggregation", aggregation)
        ours.__init__(self, policy, env, *args, **kwargs)  # type: ignore[misc]

    return type(name, (ours,), {"__init__": __init__})
