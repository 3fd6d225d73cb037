"""Restoring QMIX from checkpoints with and without the replay, states in memory and modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_agg import QMIX, QMIXConfig
from tests.rllib.qmix_runs import assert_equal, built, parameters, tiny
from tests.rllib.results import MODULE, agg

pytestmark = pytest.mark.usefixtures("corridor")


LAG = {"communication": "lag", "communication_kwargs": {"xi": 1.0, "window": 2}, "compression": ("random_k", "ternary")}


@pytest.mark.parametrize(
    "sharing",
    [
        *[pytest.param({"parameter_sharing": name}, marks=pytest.mark.slow) for name in ("none", "full", "rs_pps")],
        {"parameter_sharing": "rs_pps", **LAG, "merge_targets": True, "moments": "merge", "within_type": True},
        pytest.param({"parameter_sharing": "rs_pps", "mixer": "qtran", "merge_targets": True}, marks=pytest.mark.slow),
        {"parameter_sharing": "full", "weighting": "central", "tau": 0.5},
        pytest.param({"parameter_sharing": "full", "mixer": "qtran"}, marks=pytest.mark.slow),
        pytest.param({"parameter_sharing": "a_pps", "weighting": "optimistic", **LAG}, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_restores_to_the_bit(sharing: dict[str, Any], ray_session: None, tmp_path: Path) -> None:
    config = tiny("walk/corridor", **sharing, sharing_interval=5, updates_per_episode=0.7, td_lambda=0.5)
    algorithm = built(config, 4)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    saved = parameters(algorithm)
    on = [algorithm.train() for _ in range(3)]
    evaluated = algorithm.evaluate()["env_runners"]["episode_return_mean"]
    restored = QMIX.from_checkpoint(path)
    assert_equal(parameters(restored), saved)
    again = [restored.train() for _ in range(3)]
    assert_equal(parameters(restored), parameters(algorithm))
    for one, other in zip(on, again, strict=True):
        for name in ("episode_return_mean", "win_rate", "num_env_steps_sampled_lifetime"):
            assert one["env_runners"][name] == other["env_runners"][name]
        assert agg(one) == agg(other)
    assert restored.evaluate()["env_runners"]["episode_return_mean"] == evaluated
    algorithm.restore_from_path(path)  # older than what is in place
    assert_equal(parameters(algorithm), saved)
    algorithm.train()
    assert agg(algorithm.train())["updates"] == agg(on[1])["updates"]
    restored.stop()
    algorithm.stop()


A_PPS = {"parameter_sharing": "a_pps"}


@pytest.mark.parametrize(
    ("saved_with", "restored_with", "agents"),
    [
        ({"parameter_sharing": "none"}, A_PPS, 3),
        ({**A_PPS, "within_type": True}, A_PPS, 3),  # of two agents, and of three
        ({**A_PPS, "within_type": True}, A_PPS, 2),  # no group, and one
    ],
)
def test_groups_that_have_not_merged_yet_start_afresh(
    saved_with: dict[str, Any], restored_with: dict[str, Any], agents: int, ray_session: None, tmp_path: Path
) -> None:
    def config(sharing: dict[str, Any], seed: int) -> QMIXConfig:
        own = tiny("walk/corridor", **sharing, same_init=False, sharing_interval=5).debugging(seed=seed)
        return own.environment(env_config={"agents": agents})

    algorithm = built(config(saved_with, 3), 2)
    restored = built(config(restored_with, 4), 1)
    restored.restore_from_path(algorithm.save_to_path(tmp_path / "checkpoint"))
    assert_equal(parameters(restored), parameters(algorithm))
    assert restored.server.num_merges == algorithm.server.num_merges
    (state,) = restored.server.state_dict()["merging"]
    average = [value.detach().mean(0).flatten() for value in algorithm.learner.team.networks.parameters()]
    torch.testing.assert_close(state["reference"], torch.cat(average))
    assert (state["num_agents"], state["num_exchanges"]) == (agents, 0)
    merges = restored.server.num_merges
    assert agg(restored.train())["merges"] > merges
    restored.stop()
    algorithm.stop()


def test_checkpoint_without_the_replay(ray_session: None, tmp_path: Path) -> None:
    algorithm = built(tiny(store_buffer_in_checkpoints=False), 3)
    path = algorithm.save_to_path(tmp_path / "checkpoint")
    restored = QMIX.from_checkpoint(path)
    assert_equal(parameters(restored), parameters(algorithm))
    assert len(restored.server.replay) == 0
    assert restored.server.num_steps == algorithm.server.num_steps > 0
    assert agg(restored.train())["replay_episodes"] == 8
    restored.stop()
    algorithm.stop()


def test_a_replay_that_does_not_fit_changes_nothing(ray_session: None, tmp_path: Path) -> None:
    saved = built(tiny(replay_buffer_config={"capacity": 8}), 2)
    path = saved.save_to_path(tmp_path / "checkpoint")
    other, untouched = (built(tiny(replay_buffer_config={"capacity": 80}).debugging(seed=4), 1) for _ in range(2))
    for restore in (lambda: other.restore_from_path(path), lambda: other.set_state(saved.get_state())):
        with pytest.raises(
            ValueError, match=r"another capacity.* restore it with .*or with store_buffer_in_checkpoints=False"
        ):
            restore()
        assert_equal(parameters(other), parameters(untouched))
    assert [agg(each.train()) for each in (other,)] == [agg(each.train()) for each in (untouched,)]
    assert_equal(parameters(other), parameters(untouched))
    without = built(tiny(replay_buffer_config={"capacity": 80}, store_buffer_in_checkpoints=False))
    without.restore_from_path(path)
    assert_equal(parameters(without), parameters(saved))
    assert len(without.server.replay) == 0
    for each in (saved, other, untouched, without):
        each.stop()


def test_an_older_state_in_memory_brings_back_the_older_parameters(ray_session: None) -> None:
    algorithm = built(tiny(), 2)
    state, before = algorithm.get_state(), parameters(algorithm)
    for _ in range(3):
        algorithm.train()
    assert any((value != before[name]).any() for name, value in parameters(algorithm).items())
    for _ in range(2):  # a restored state must not share memory with what learns on
        algorithm.set_state(state)
        assert_equal(parameters(algorithm), before)
        algorithm.train()
        once = parameters(algorithm)
        algorithm.train()
    assert_equal(parameters(built(tiny(), 3)), once)
    algorithm.stop()


@pytest.mark.parametrize(
    "loss", [{"mixer": "qtran"}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({}, {"weighting": "optimistic"}))]
)
def test_a_loaded_module_is_begun_with(loss: dict[str, Any], ray_session: None, tmp_path: Path) -> None:
    trained = built(tiny(parameter_sharing="full", **loss), 2)
    path = trained.save_to_path(tmp_path / "checkpoint")
    spec = RLModuleSpec(load_state_path=str(Path(path) / "learner_group" / "learner" / "rl_module" / MODULE))
    algorithm = built(tiny(parameter_sharing="full", **loss).rl_module(rl_module_spec=spec))
    assert_equal(parameters(algorithm), parameters(trained))
    trained.stop()
    algorithm.stop()
