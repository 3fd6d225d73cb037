"""The examples run, at a small size."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from stable_baselines3.common.env_util import make_vec_env

ROOT = Path(__file__).parents[2]


def test_quickstart_is_short_and_learns_something() -> None:
    script = ROOT / "examples" / "sb3_quickstart.py"
    assert len(script.read_text().splitlines()) <= 30
    run = subprocess.run([sys.executable, str(script), "12000"], capture_output=True, text=True, check=True, timeout=120)
    mean_return = float(run.stdout.split("episodes: ")[1].split(";")[0])
    assert mean_return > 60  # a random policy reaches about 20


def test_own_axes_are_used_by_name() -> None:
    script = ROOT / "examples" / "own_axes.py"
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    messages, num_bytes = map(int, re.findall(r"(\d+) (?:messages|bytes)", run.stdout))
    assert num_bytes == messages * ((9_155 + 32 + 7) // 8 + 4)  # signs, a magnitude and a return


def test_a_combiners_memory_is_loaded() -> None:
    script = ROOT / "examples" / "sb3_own_combiner.py"
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout == "steps remembered: 160\n"  # rollouts, epochs, minibatches: 4 * 10 * 4


@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed: pip install 'rl-agg[zoo]'")
@pytest.mark.slow
def test_zoo_trains_and_writes_a_model(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "train_zoo.py"), "--algo", "agg_ppo", "--env", "CartPole-v1"]
    command += ["--conf-file", str(ROOT / "examples" / "hyperparams" / "agg_ppo.yml"), "-n", "512", "-f", str(tmp_path)]
    command += ["--hyperparams", "aggregation:'l_weighted'", "--eval-freq", "-1", "--device", "cpu"]
    subprocess.run(command, check=True, timeout=180, cwd=tmp_path)
    assert list(tmp_path.glob("agg_ppo/CartPole-v1_1/CartPole-v1.zip"))


@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed: pip install 'rl-agg[zoo]'")
def test_a_search_of_the_zoo_draws_settings_that_every_number_of_agents_takes() -> None:
    import optuna
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    zoo = runpy.run_path(str(ROOT / "examples" / "train_zoo.py"))
    for _, stock in zoo["ADDED"].values():
        for table in (HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER):
            assert stock in table
    drawn = {
        "batch_size_pow": 2,
        "n_steps_pow": 5,
        "one_minus_gamma": 0.01,
        "one_minus_gae_lambda": 0.05,
        "learning_rate": 1e-4,
    }
    drawn |= {
        "ent_coef": 0.01,
        "clip_range": 0.2,
        "n_epochs": 1,
        "max_grad_norm": 0.5,
        "net_arch": "tiny",
        "activation_fn": "tanh",
    }
    algorithm, stock = zoo["ADDED"]["agg_ppo"]
    settings = zoo["in_stock_order"](HYPERPARAMS_SAMPLER[stock])(optuna.trial.FixedTrial(drawn), 2, 8, {})
    assert settings == zoo["in_stock_order"](HYPERPARAMS_CONVERTER[stock])(drawn)
    assert algorithm("MlpPolicy", make_vec_env("CartPole-v1", 8), **settings).learn(256).num_timesteps == 256
