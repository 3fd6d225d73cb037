"""A pytest plugin that puts our classes in place of Stable-Baselines3's and sb3-contrib's, where tests import them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sb3_contrib
import stable_baselines3

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO

AGGREGATION = "RL_AGG_AGGREGATION"
"""Which ``aggregation`` they have unless a test says otherwise; not set: stock's classes stay."""
OUTCOMES = "RL_AGG_OUTCOMES"
"""Where to write what became of each test that made a model of theirs."""

CLASSES = (
    (stable_baselines3, "PPO", AggPPO),
    (stable_baselines3, "A2C", AggA2C),
    (sb3_contrib, "MaskablePPO", AggMaskablePPO),
    (sb3_contrib, "RecurrentPPO", AggRecurrentPPO),
)

users: set[str] = set()
outcomes: dict[str, str] = {}


def pytest_configure() -> None:
    """Replace the classes before test modules are imported."""
    aggregation = os.environ.get(AGGREGATION)
    for package, name, ours in CLASSES:
        stock = getattr(package, name)
        setattr(package, name, _noting_users(stock) if aggregation is None else _noting_users(ours, aggregation=aggregation))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.nodeid in users and outcomes.get(report.nodeid, "passed") == "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ[OUTCOMES]).write_text(json.dumps(outcomes))


def _noting_users(kind: type, **defaults: object) -> type:
    def __init__(self: object, *args: object, **kwargs: object) -> None:
        users.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])
        kind.__init__(self, *args, **{**defaults, **kwargs})  # type: ignore[misc]

    return type(kind.__name__.removeprefix("Agg"), (kind,), {"__init__": __init__})
