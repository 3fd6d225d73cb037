"""A pytest plugin that puts our classes in place of Stable-Baselines3's and sb3-contrib's, where tests import them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import sb3_contrib
import stable_baselines3

import sb3_agg

AGGREGATION = "RL_AGG_AGGREGATION"
"""Which ``aggregation`` they have unless a test says otherwise; not set: stock's classes stay."""
OUTCOMES = "RL_AGG_OUTCOMES"
"""Where to write what became of each test that made a model of theirs."""

FAMILY = "RL_AGG_FAMILY"
"""Which of :data:`CLASSES` are replaced."""

CLASSES = {
    "on_policy": {stable_baselines3: ("PPO", "A2C"), sb3_contrib: ("MaskablePPO", "RecurrentPPO")},
    "off_policy": {stable_baselines3: ("DQN", "SAC", "TD3", "DDPG"), sb3_contrib: ("QRDQN", "TQC")},
}
"""Names of classes, by the package that tests import them from."""

users: set[str] = set()
outcomes: dict[str, str] = {}


def pytest_configure() -> None:
    """Replace the classes before test modules are imported."""
    aggregation = os.environ.get(AGGREGATION)
    for package, names in CLASSES[os.environ[FAMILY]].items():
        for name in names:
            kind, defaults = getattr(package, name), {}
            if aggregation is not None:
                kind, defaults = getattr(sb3_agg, f"Agg{name}"), {"aggregation": aggregation}
            setattr(package, name, _noting_users(kind, **defaults))


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
