"""Stable-Baselines3's and sb3-contrib's own tests with our classes in place: what passes with stock's passes with ours.

Nothing is downloaded: the environment variables name checkouts of versions that fit those installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.hosts import in_place

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODULES = {
    "RL_AGG_SB3_CHECKOUT": (
        *("test_callbacks", "test_cnn", "test_custom_policy", "test_deterministic", "test_dict_env", "test_distributions"),
        *("test_gae", "test_identity", "test_logger", "test_predict", "test_run", "test_save_load", "test_sde", "test_spaces"),
        *("test_tensorboard", "test_train_eval_mode", "test_utils", "test_vec_envs", "test_vec_extract_dict_obs"),
        *("test_vec_monitor",),
    ),
    "RL_AGG_SB3_CONTRIB_CHECKOUT": (
        *("test_cnn", "test_deterministic", "test_invalid_actions", "test_lstm", "test_run", "test_train_eval_mode"),
    ),
}
"""Checkouts, and their test modules that use on-policy algorithms."""

DIFFERENT: dict[str, str] = {}
"""Tests that pass with stock's classes alone, by a pattern, and why."""


@cache
def outcomes(checkout: str, aggregation: str | None) -> dict[str, str]:
    """What became of each test, by its name."""
    folder = Path(os.environ[checkout])
    files = [f"tests/{name}.py" for name in MODULES[checkout] if (folder / "tests" / f"{name}.py").exists()]
    environment = {name: value for name, value in os.environ.items() if name != in_place.AGGREGATION}
    if aggregation is not None:
        environment[in_place.AGGREGATION] = aggregation
    environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-m", "pytest", "-p", "tests.hosts.in_place", "-p", "no:cacheprovider", "-rA", "-q", "--tb=no"]
    options = ["-k", "PPO or A2C or ppo or a2c or not (DQN or SAC or TD3 or DDPG or QRDQN or TQC or TRPO or ARS or CrossQ)"]
    done = subprocess.run(
        [*command, *options, *files], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    lines = re.findall(r"^(PASSED|FAILED|ERROR) (tests/.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    found = {name: outcome for outcome, name in lines}
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return found


@pytest.mark.parametrize("aggregation", ["r_weighted", "l_weighted", "median", "fedavg"])
@pytest.mark.parametrize("checkout", MODULES)
def test_what_passes_with_stock_passes_with_ours(checkout: str, aggregation: str) -> None:
    if checkout not in os.environ:
        pytest.skip(f"{checkout} does not name a checkout")
    stock, ours = outcomes(checkout, None), outcomes(checkout, aggregation)
    passed = {name for name, outcome in stock.items() if outcome == "PASSED"}
    assert len(passed) > 50
    lost = sorted(name for name in passed if ours.get(name) != "PASSED")
    unexplained = [name for name in lost if not any(re.search(pattern, name) for pattern in DIFFERENT)]
    print(f"{checkout}, {aggregation}: {len(passed) - len(lost)} of {len(passed)} pass")
    assert not unexplained
