"""With the mean, AggDQN and AggSAC are RLlib's DQN and SAC to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import tree
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.sac import SACConfig

from tests.rllib.groups import MODULE, plain
from tests.rllib.replay_configs import KINDS, tiny_dqn, tiny_sac


def trained(config: Any, num_steps: int) -> Any:
    """Weights, priorities and metrics after training, from the same random numbers for every config."""
    algorithm = config.build_algo()
    algorithm.local_replay_buffer.rng = np.random.default_rng(3)
    torch.manual_seed(3)
    while True:
        result = algorithm.train()
        if result["num_env_steps_sampled_lifetime"] >= num_steps:
            break
    replay = algorithm.local_replay_buffer.get_state()
    state = {
        "weights": plain(algorithm.learner_group.get_weights()),
        "optimizers": plain(algorithm.learner_group.get_state()["learner"]["optimizer"]),
        "priorities": replay.get("_sum_segment"),
    }
    logged = {name: float(value) for name, value in result["learners"][MODULE].items() if np.isscalar(value)}
    algorithm.stop()
    return state, logged


CASES: dict[str, tuple[Callable[..., Any], type, dict[str, Any]]] = {
    "DQN": (tiny_dqn, DQNConfig, {}),
    "DQN, uniform, n steps": (tiny_dqn, DQNConfig, {"kind": KINDS[0], "n_step": 3}),
    "DQN, one network, squares": (tiny_dqn, DQNConfig, {"double_q": False, "dueling": False, "td_error_loss_fn": "mse"}),
    "DQN, distributions": (tiny_dqn, DQNConfig, {"num_atoms": 7, "v_min": 0.0, "v_max": 60.0}),
    "SAC": (tiny_sac, SACConfig, {}),
    "SAC, uniform, one critic": (tiny_sac, SACConfig, {"kind": KINDS[0], "twin_q": False}),
    "SAC, discrete": (tiny_sac, SACConfig, {"env": "CartPole-v1", "target_entropy": 0.3}),
}
QUICK = {"DQN", "SAC"}


SLOW = pytest.mark.slow


def check(case: str, num_steps: int) -> None:
    make, stock, settings = CASES[case]
    ours, our_log = trained(make(**settings), num_steps)
    theirs, their_log = trained(make(make=stock, **settings), num_steps)
    tree.map_structure(np.testing.assert_array_equal, ours, theirs)
    assert their_log.keys() <= our_log.keys()
    for name in their_log.keys() - {"total_loss"}:
        assert our_log[name] == pytest.approx(their_log[name], rel=1e-5, abs=1e-7, nan_ok=True), name


@pytest.mark.parametrize("case", ["DQN", "SAC", *(pytest.param(name, marks=SLOW) for name in CASES if "," in name)])
def test_mean_is_stock_to_the_bit(case: str, ray_session: None) -> None:
    check(case, 300)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["DQN", "SAC"])
def test_mean_is_stock_to_the_bit_after_many_steps(case: str, ray_session: None) -> None:
    check(case, 2500)
