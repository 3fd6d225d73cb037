"""A run with a replay and several learners continues to the bit from a checkpoint."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

from rllib_agg import AggDQN, AggSAC
from tests.rllib.groups import MODULE, on_each, plain
from tests.rllib.replay_configs import tiny_dqn, tiny_sac

cloudpickle.register_pickle_by_value(sys.modules[__name__])

CASES = {"DQN": (tiny_dqn, AggDQN), "SAC": (tiny_sac, AggSAC)}
DRAW: dict[str, Any] = {"num_items": 64, "n_step": 1, "beta": 0.4, "gamma": 0.99, "sample_episodes": True}


def learner_state(learner: Any) -> dict[str, Any]:
    """With the entropy coefficient, when targets were updated, and what gates and returns are remembered."""
    state = learner.get_state()
    return {name: plain(state[name]) for name in ("rl_module", "optimizer", "aggregation")}


def continued(algorithm: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """States of the learners, and what the replay draws next; then their states after an update with it."""
    states = on_each(algorithm.learner_group, learner_state)
    samples = algorithm.local_replay_buffer.sample(**DRAW)
    on_each(algorithm.learner_group, lambda learner: torch.manual_seed(3) and None)
    algorithm.learner_group.update(episodes=copy.deepcopy(samples), timesteps={})
    drawn = [sample.get_observations() for sample in samples]
    return states, drawn, on_each(algorithm.learner_group, learner_state)


@pytest.mark.remote
@pytest.mark.parametrize("case", CASES)
def test_two_learners_continue_to_the_bit(case: str, ray_session: None, tmp_path: Path) -> None:
    make, kind = CASES[case]
    settings = {"aggregation": "r_weighted", "communication": "lag", "store_buffer_in_checkpoints": True}
    algorithm = make(**settings).learners(num_learners=2).build_algo()
    for _ in range(2):
        saved = algorithm.train()["num_env_steps_sampled_lifetime"]
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    expected = continued(algorithm)
    algorithm.train()
    algorithm.restore_from_path(path)  # older than what is in place
    np.testing.assert_equal(continued(algorithm), expected)
    algorithm.stop()

    restored = kind.from_checkpoint(path)
    np.testing.assert_equal(continued(restored), expected)
    one, other = expected[2]
    np.testing.assert_equal(one["rl_module"], other["rl_module"])
    assert one["aggregation"]["modules"][MODULE]["exchange"] is not None
    assert restored.train()["num_env_steps_sampled_lifetime"] >= saved + 100
    restored.stop()
