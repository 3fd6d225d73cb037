"""Stable-Baselines3's and sb3-contrib's own tests with our classes in place: what passes with stock's passes with ours.

Nothing is downloaded: the environment variables name checkouts of versions that fit those installed.
"""

from __future__ import annotations

import json
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
NUM_TESTS = {"RL_AGG_SB3_CHECKOUT": 100, "RL_AGG_SB3_CONTRIB_CHECKOUT": 40}
"""Environment variables that name checkouts, and how many of their tests make a model of an on-policy algorithm at least."""
ON_POLICY = "PPO or A2C or not (DQN or SAC or TD3 or DDPG or TQC or TRPO or ARS or CrossQ)"
"""Tests, by words in their names of any case."""

DIFFERENT = {
    r"test_no_resource_warning|test_vec_monitor_ppo": "no warning is allowed, and one environment warns that it is one agent",
    r"test_discrete\[env2-A2C\]": "learns from seed 3, stock from 2 of 12 seeds; rules of returns or losses double one agent",
    r"test_fps_logger": "measures time: 100 steps a second, which no class reaches on a busy machine",
}
"""Tests that pass with stock's classes alone, by a pattern, and why; docs/subclassing.md has them too."""


def outcomes(checkout: str, folder: Path, tests: list[str], aggregation: str | None = None) -> dict[str, str]:
    """What became of each test that made a model, by its name."""
    environment = {name: value for name, value in os.environ.items() if name != in_place.AGGREGATION}
    if aggregation is not None:
        environment[in_place.AGGREGATION] = aggregation
    # Not the working directory first: its packages are called as those under test and as our tests, which hold the plugin
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}
    written, arguments = folder / "outcomes.json", folder / "arguments"
    environment[in_place.OUTCOMES] = str(written)
    arguments.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-p", "in_place", "-p", "no:cacheprovider", "-q", f"@{arguments}"]
    options = ["-m", "not slow and not expensive", "-k", ON_POLICY, "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, *options], cwd=os.environ[checkout], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert written.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, str] = json.loads(written.read_text())
    return found


@cache
def passing_with_stock(checkout: str, folder: Path) -> list[str]:
    files = sorted(Path(os.environ[checkout], "tests").glob("test_*.py"))
    on_policy = [f"tests/{file.name}" for file in files if re.search(r"\b(A2C|\w*PPO)\b", file.read_text())]
    passed = [name for name, outcome in outcomes(checkout, folder, on_policy).items() if outcome == "passed"]
    assert len(passed) >= NUM_TESTS[checkout]
    return passed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.mark.parametrize("aggregation", ["r_weighted", "l_weighted", "median", "fedavg"])
@pytest.mark.parametrize("checkout", NUM_TESTS)
def test_what_passes_with_stock_passes_with_ours(checkout: str, aggregation: str, folder: Path) -> None:
    if checkout not in os.environ:
        pytest.skip(f"{checkout} does not name a checkout")
    passed = passing_with_stock(checkout, folder)
    ours = outcomes(checkout, folder, passed, aggregation)
    lost = [name for name in passed if ours.get(name) != "passed"]
    print(f"{checkout}, {aggregation}: {len(passed) - len(lost)} of {len(passed)} pass")
    assert not [name for name in lost if not any(re.search(pattern, name) for pattern in DIFFERENT)]
