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


EXAMPLES = ROOT / "examples"
MODULES = ("rllib_impala.py",)
"""Used by tests and pages as a module of settings; all others are scripts to read."""


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.name)
def test_examples_are_short_and_listed(script: Path) -> None:
    assert script.name in MODULES or len(script.read_text().splitlines()) <= 40
    assert f"../examples/{script.name}" in (ROOT / "docs" / "examples.md").read_text()


def run(script: str, *arguments: str, cwd: Path | None = None) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd=cwd).stdout


@pytest.mark.slow
def test_quickstart_compares_with_stock(tmp_path: Path) -> None:
    printed = run("sb3_quickstart.py", "20000", str(tmp_path / "curves.svg"))
    returns = dict(re.findall(r"(.+): return (\d+) after", printed))
    assert min(map(int, returns.values())) > 60  # a random policy reaches about 20
    assert list(returns) == ["stock PPO", "AggPPO"]
    assert "<svg" in (tmp_path / "curves.svg").read_text()


@pytest.mark.slow
def test_the_mean_collapses_and_the_median_learns() -> None:
    returns = dict(re.findall(r"(\w+): return (\d+)", run("faulty_agents.py")))
    assert int(returns["mean"]) < 15
    assert int(returns["median"]) > 100


@pytest.mark.slow
def test_agents_in_leaky_rooms_earn_less_and_count_less() -> None:
    printed = run("custom_environment.py", "8000")
    returns, weights = ([float(number) for number in re.findall(r"-?\d+\.\d*", part)] for part in printed.split(";"))
    assert len(returns) == len(weights) == 8
    best, worst = returns.index(max(returns)), returns.index(min(returns))
    assert weights[best] > weights[worst]


@pytest.mark.slow
def test_the_better_half_counts() -> None:
    printed = run("custom_rule.py", "4096")
    weights = [float(number) for number in re.findall(r"\d+\.\d*", printed.split("weights")[1])]
    assert sorted(set(weights)) == [0.1, 1.0]
    assert weights.count(1.0) >= 4


@pytest.mark.slow
def test_a_model_acts_where_rl_agg_is_not_imported() -> None:
    printed = run("save_and_deploy.py", "4096")
    assert "trained on to 6144 steps" in printed
    assert "rl-agg imported: False" in printed


@pytest.mark.slow
def test_sampled_clients_in_half_precision_send_a_quarter() -> None:
    sent = [int(number) for number in re.findall(r"(\d+) messages", run("sb3_fedavg.py", "16384"))]
    assert 0.3 * sent[0] < sent[1] < 0.7 * sent[0]


def test_own_axes_are_used_by_name() -> None:
    messages, num_bytes = map(int, re.findall(r"(\d+) (?:messages|bytes)", run("own_axes.py")))
    assert num_bytes == messages * ((9_155 + 32 + 7) // 8 + 4)  # signs, a magnitude and a return


def test_a_combiners_memory_is_loaded() -> None:
    assert run("sb3_own_combiner.py") == "steps remembered: 160\n"  # rollouts, epochs, minibatches: 4 * 10 * 4


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
