"""``mean`` in stock's order is stock, to the bit; files go both ways; a resumed run is the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.save_util import recursive_getattr

from sb3_agg import AggSAC
from tests.sb3.flattened import parameters
from tests.sb3.replays import DISCRETE, PAIRS, marked, ours, settings

DEFAULT = ("dqn", "sac")
ALL = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS]


@pytest.mark.parametrize("name", [name if name == "dqn" else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS])
def test_mean_is_bit_identical_to_stock(name: str) -> None:
    stock, agg = PAIRS[name]
    one = stock("MlpPolicy", marked(name), **settings(name)).learn(2000)
    other = agg("MlpPolicy", marked(name), **settings(name, aggregation="mean", minibatches="stock")).learn(2000)
    assert one._n_updates == other._n_updates > 300
    assert torch.equal(parameters(one), parameters(other))
    if hasattr(one, "log_ent_coef"):
        assert torch.equal(one.log_ent_coef, other.log_ent_coef)


@pytest.mark.parametrize("name", ALL)
def test_another_rule_is_not(name: str) -> None:
    one, other = (ours(name, aggregation=rule, minibatches="stock").learn(200) for rule in ("mean", "r_weighted"))
    assert not torch.equal(parameters(one), parameters(other))


def kernels(model: Any) -> list[bool | None]:
    """Whether each optimiser that steps with what agents sent is fused."""
    optimizers = [recursive_getattr(model, name) for name in model.exchanges]
    return [group["fused"] for optimizer in optimizers for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ALL)
def test_the_kernel_of_adam_changes_rounding_alone(name: str) -> None:
    own = {"aggregation": "r_weighted", "learning_starts": 20}
    fused, plain = ours(name, **own).learn(60), ours(name, **own, fused_optimizer=False).learn(60)
    assert fused._n_updates == plain._n_updates > 0
    assert (set(kernels(fused)), set(kernels(plain))) == ({True}, {None})
    torch.testing.assert_close(parameters(fused), parameters(plain), rtol=1e-4, atol=1e-5)


def test_who_chooses_the_kernel_of_adam(tmp_path: Path) -> None:
    chosen = settings("sac")["policy_kwargs"] | {"optimizer_kwargs": {"fused": False}}
    assert kernels(ours("sac", minibatches="stock")) == [None, None]
    assert kernels(ours("sac", minibatches="stock", fused_optimizer=True)) == [True, True]
    assert kernels(ours("sac", policy_kwargs=chosen)) == [False, False]
    saved(ours("sac", fused_optimizer=False).learn(60), tmp_path)
    for fused, found in ((False, None), (True, True)):
        model = AggSAC.load(tmp_path / "model", env=marked("sac"), device="cpu", fused_optimizer=fused)
        assert kernels(model) == [found, found]


def saved(model: Any, folder: Path) -> Any:
    """The model, with its file and its replay buffer's."""
    model.save(folder / "model")
    model.save_replay_buffer(folder / "replay")
    return model


@pytest.mark.parametrize("name", ALL)
def test_a_stock_file_trains_on(name: str, tmp_path: Path) -> None:
    stock, agg = PAIRS[name]
    one = saved(stock("MlpPolicy", marked(name), **settings(name)).learn(100), tmp_path)
    model = agg.load(tmp_path / "model", env=marked(name), device="cpu", aggregation="r_weighted")
    assert torch.equal(parameters(model), parameters(one))
    model.load_replay_buffer(tmp_path / "replay")
    model.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == 200
    assert not torch.equal(parameters(model), parameters(one))
    assert np.ptp(model.agent_weights) > 0


@pytest.mark.parametrize("name", ALL)
def test_mean_resumes_as_stock(name: str, tmp_path: Path) -> None:
    stock, agg = PAIRS[name]
    saved(stock("MlpPolicy", marked(name), **settings(name)).learn(200), tmp_path)
    found = []
    for kind, own in ((stock, {}), (agg, {"aggregation": "mean", "minibatches": "stock"})):
        model = kind.load(tmp_path / "model", env=marked(name), device="cpu", **own)
        model.load_replay_buffer(tmp_path / "replay")
        model.set_random_seed(9)
        model.learn(200, reset_num_timesteps=False)
        found.append(parameters(model))
    assert torch.equal(*found)


RESUMED: dict[str, dict[str, Any]] = {
    "r_weighted": {"aggregation": "r_weighted"},
    "lag": {"aggregation": "median", "communication": "lag"},
    "top_k": {"compression": "top_k", "compression_kwargs": {"fraction": 0.1}, "interval": 3},
}


@pytest.mark.parametrize("scheme", RESUMED)
@pytest.mark.parametrize("name", ALL)
def test_a_resumed_run_is_the_run_that_was_saved(name: str, scheme: str, tmp_path: Path) -> None:
    """Two models from one file, and the one that was saved, take the same next steps."""
    model = saved(ours(name, **RESUMED[scheme]).learn(105), tmp_path)
    found = []
    for again in (model, PAIRS[name][1].load(tmp_path / "model", env=marked(name), device="cpu")):
        if again is not model:
            again.load_replay_buffer(tmp_path / "replay")
            again.set_logger(model.logger)
        again.set_random_seed(9)
        np.testing.assert_array_equal(again.recent_returns, model.recent_returns)
        for _ in range(4):
            again.train(gradient_steps=2, batch_size=again.batch_size)
        found.append((parameters(again), again.ledger.state_dict()))
    (expected, counts), (actual, resumed_counts) = found
    assert torch.equal(actual, expected)
    assert resumed_counts == counts


STOCK = """
import sys
sys.modules.update({name: None for name in ("rl_agg", "sb3_agg")})
import numpy as np, torch
import sb3_contrib, stable_baselines3
from stable_baselines3.common.logger import Logger
name, path = sys.argv[1:]
kind = getattr(stable_baselines3, name, None) or getattr(sb3_contrib, name)
model = kind.load(path, device="cpu")
np.save(path + ".npy", model.predict(np.load(path + ".in.npy"), deterministic=True)[0])
model.load_replay_buffer(path + ".replay")
model.set_logger(Logger(folder=None, output_formats=[]))
num_updates = model._n_updates
model.train(gradient_steps=2, batch_size=20)
assert model._n_updates == num_updates + 2
assert not any(key.partition(".")[0] in ("rl_agg", "sb3_agg") for key, module in sys.modules.items() if module)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_stock_opens_our_files_where_this_package_is_not(name: str, tmp_path: Path) -> None:
    from rl_agg.combiners import Krum

    model = ours(name, aggregation=Krum(), communication="lag", compression="float16").learn(105)
    path = str(tmp_path / "model")
    model.save(path)
    model.save_replay_buffer(f"{path}.replay")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    np.save(f"{path}.in.npy", observations)
    command = [sys.executable, "-c", STOCK, PAIRS[name][0].__name__, path]
    subprocess.run(command, check=True, timeout=120)
    np.testing.assert_array_equal(np.load(f"{path}.npy"), model.predict(observations, deterministic=True)[0])


def test_a_replay_buffer_of_other_agents_is_refused(tmp_path: Path) -> None:
    ours("dqn").learn(100).save_replay_buffer(tmp_path / "replay")
    model = ours("dqn", num_agents=3)
    model.load_replay_buffer(tmp_path / "replay")
    with pytest.raises(ValueError, match="holds transitions of 5 environments, and the model has 3"):
        model.learn(100)


@pytest.mark.parametrize("name", ALL)
def test_hooks_are_gone_after_training(name: str) -> None:
    model = ours(name, aggregation="l_weighted").learn(100)
    for part in model.algorithm.parts:
        assert part.method not in vars(getattr(model, part.network))
    assert "sample" not in vars(model.replay_buffer)
    assert torch.nn.functional.mse_loss.__module__ == "torch.nn.functional"
    assert (name in DISCRETE) == hasattr(model, "exploration_rate")
