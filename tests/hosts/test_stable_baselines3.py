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
NUM_TESTS = {
    ("RL_AGG_SB3_CHECKOUT", "on_policy"): 100,
    ("RL_AGG_SB3_CONTRIB_CHECKOUT", "on_policy"): 40,
    ("RL_AGG_SB3_CHECKOUT", "off_policy"): 240,
    ("RL_AGG_SB3_CONTRIB_CHECKOUT", "off_policy"): 55,
}
"""Environment variables that name checkouts, and how many of their tests make a model of a family of algorithms at least."""
SELECTED = {
    "on_policy": "PPO or A2C or not (DQN or SAC or TD3 or DDPG or TQC or TRPO or ARS or CrossQ)",
    "off_policy": "DQN or SAC or TD3 or DDPG or TQC or not (PPO or A2C or TRPO or ARS or CrossQ)",
}
"""Tests, by words in their names of any case."""
AGGREGATIONS = {
    "on_policy": ["r_weighted", "l_weighted", "median", "fedavg"],
    "off_policy": ["r_weighted", "l_weighted", "median"],
}

DIFFERENT = {
    r"test_no_resource_warning|test_vec_monitor_ppo|test_warn_buffer|test_save_load_replay_buffer\[.*-1\]": (
        "no warning is allowed, and one environment warns that it is one agent"
    ),
    r"test_discrete\[env2-A2C\]": "learns from seed 3, stock from 2 of 12 seeds; rules of returns or losses double one agent",
    r"test_performance_her": "learns by step 1500 from seed 0 with its random numbers, and stock too fails from others",
    r"test_fps_logger": "measures time: 100 steps a second, which no class reaches on a busy machine",
}
"""Tests that pass with stock's classes alone, by a pattern, and why; docs/subclassing.md has them too."""


def outcomes(checkout: str, family: str, folder: Path, tests: list[str], aggregation: str | None = None) -> dict[str, str]:
    """What became of each test that made a model, by its name."""
    environment = {name: value for name, value in os.environ.items() if name != in_place.AGGREGATION}
    environment[in_place.FAMILY] = family
    if aggregation is not None:
        environment[in_place.AGGREGATION] = aggregation
    # Not the working directory first: its packages are called as those under test and as our tests, which hold the plugin
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}", "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}
    written, arguments = folder / "outcomes.json", folder / "arguments"
    environment[in_place.OUTCOMES] = str(written)
    arguments.write_text("\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-p", "in_place", "-p", "no:cacheprovider", "-q", f"@{arguments}"]
    options = ["-m", "not slow and not expensive", "-k", SELECTED[family], "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, *options], cwd=os.environ[checkout], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert written.exists(), done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, str] = json.loads(written.read_text())
    return found


@cache
def passing_with_stock(checkout: str, family: str, folder: Path) -> list[str]:
    files = sorted(Path(os.environ[checkout], "tests").glob("test_*.py"))
    classes = "|".join(name for names in in_place.CLASSES[family].values() for name in names)
    using = [f"tests/{file.name}" for file in files if re.search(rf"\b({classes})\b", file.read_text())]
    passed = [name for name, outcome in outcomes(checkout, family, folder, using).items() if outcome == "passed"]
    assert len(passed) >= NUM_TESTS[checkout, family]
    return passed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.mark.parametrize(
    ("checkout", "family", "aggregation"),
    [(checkout, family, name) for checkout, family in NUM_TESTS for name in AGGREGATIONS[family]],
)
def test_what_passes_with_stock_passes_with_ours(checkout: str, family: str, aggregation: str, folder: Path) -> None:
    if checkout not in os.environ:
        pytest.skip(f"{checkout} does not name a checkout")
    passed = passing_with_stock(checkout, family, folder)
    ours = outcomes(checkout, family, folder, passed, aggregation)
    lost = [name for name in passed if ours.get(name) != "passed"]
    print(f"{checkout}, {aggregation}: {len(passed) - len(lost)} of {len(passed)} pass")
    assert not [name for name in lost if not any(re.search(pattern, name) for pattern in DIFFERENT)]
