"""The examples run, at a small size."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_quickstart_is_short_and_learns_something() -> None:
    script = ROOT / "examples" / "sb3_quickstart.py"
    assert len(script.read_text().splitlines()) <= 30
    run = subprocess.run([sys.executable, str(script), "12000"], capture_output=True, text=True, check=True, timeout=120)
    mean_return = float(run.stdout.split("episodes: ")[1].split(";")[0])
    assert mean_return > 60  # a random policy reaches about 20


@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed: pip install 'rl-agg[zoo]'")
def test_zoo_trains_and_writes_a_model(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_zoo.py"), "--algo", "agg_ppo", "--env", "CartPole-v1"]
    command += ["--conf-file", str(ROOT / "examples" / "hyperparams" / "agg_ppo.yml"), "-n", "512", "-f", str(tmp_path)]
    command += ["--hyperparams", "aggregation:'l_weighted'", "--eval-freq", "-1", "--device", "cpu"]
    subprocess.run(command, check=True, timeout=180, cwd=tmp_path)
    assert list(tmp_path.glob("agg_ppo/CartPole-v1_1/CartPole-v1.zip"))
