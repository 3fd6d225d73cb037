"""A checkpoint is restored as a whole, or one line says what is wrong with it and nothing has changed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_agg import A3CConfig, AggIMPALAConfig, AggPPO, AggPPOConfig, DQLConfig, QMIXConfig
from tests.rllib.groups import MODULE, plain
from tests.rllib.populations import tiny_es
from tests.rllib.ppo_configs import TINY, tiny_ppo
from tests.rllib.replay_configs import tiny_ebcdql, tiny_sac

LEARNER = Path("learner_group/learner")
WEIGHTS = LEARNER / "rl_module" / MODULE / "module_state.pkl"


def ppo() -> Any:
    return tiny_ppo(aggregation="r_weighted", communication="lag", train_batch_size_per_learner=60)


def a3c() -> Any:
    config = A3CConfig().environment("CartPole-v1").env_runners(num_env_runners=0).rl_module(model_config=TINY)
    return config.training(gradients_per_iteration=3)


def impala(num_learners: int = 0) -> Any:
    config = AggIMPALAConfig().environment("CartPole-v1").env_runners(num_env_runners=1, rollout_fragment_length=20)
    config.reporting(min_time_s_per_iteration=0).learners(num_learners=num_learners)
    return config.rl_module(model_config=TINY).training(train_batch_size_per_learner=40)


def qmix() -> Any:
    config = QMIXConfig().environment("matrix/two_step").env_runners(num_env_runners=0, num_envs_per_env_runner=4)
    return config.training(train_batch_size_per_learner=4)


def tabular() -> Any:
    return DQLConfig().environment("rl_agg/SimpleGrid-v0").env_runners(num_env_runners=0).training(population=3)


CONFIGS: dict[str, Callable[[], Any]] = {
    "AggPPO": ppo,
    "A3C": a3c,
    "ES": tiny_es,
    "QMIX": qmix,
    "DQL": tabular,
    "AggIMPALA": impala,
    "AggSAC": lambda: tiny_sac(aggregation="l_weighted", store_buffer_in_checkpoints=True),
    "DeepEBCDQL": lambda: tiny_ebcdql(store_buffer_in_checkpoints=True),
}
SLOW = {"AggSAC", "DeepEBCDQL", *(f"{name}, a remote learner" for name in ("AggPPO", "AggIMPALA", "AggSAC"))}


@pytest.fixture(
    scope="module",
    params=[
        *(name for name in CONFIGS if name not in SLOW),
        *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(SLOW)),
    ],
)
def trained(request: pytest.FixtureRequest, ray_session: None) -> Iterator[Any]:
    name, _, remote = request.param.partition(", ")
    config = CONFIGS[name]()
    algorithm = (config.learners(num_learners=1) if remote else config).build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()


def damaged(path: Path, file: Path) -> None:
    content = (path / file).read_bytes()
    (path / file).write_bytes(content[: len(content) // 2])


def of_another_kind(path: Path, file: Path) -> None:
    (path / file).write_bytes(b"\x80\x04K\x01.")  # 1


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a truncated state": (lambda path: damaged(path, Path("algorithm_state.pkl")), "algorithm_state.pkl .* is damaged"),
    "a truncated learner": (lambda path: damaged(path, LEARNER / "state.pkl"), "learner/state.pkl .* is damaged"),
    "truncated weights": (lambda path: damaged(path, WEIGHTS), "module_state.pkl .* is damaged"),
    "no state": (lambda path: (path / "algorithm_state.pkl").unlink(), "not complete: algorithm_state.pkl is missing"),
    "no learner group": (
        lambda path: shutil.rmtree(path / "learner_group"),
        "not complete: learner_group/learner/state.pkl is missing",
    ),
    "no module": (lambda path: shutil.rmtree(path / LEARNER / "rl_module"), f"has no module '{MODULE}'"),
    "a state of another kind": (lambda path: of_another_kind(path, Path("algorithm_state.pkl")), ""),
    "a learner of another kind": (lambda path: of_another_kind(path, LEARNER / "state.pkl"), ""),
    "nothing": (shutil.rmtree, "there is no folder"),
}


def whole(algorithm: Any) -> Any:
    state = algorithm.get_state()
    state["env_runner"].pop("num_env_steps_sampled_lifetime", None)  # which RLlib writes to it at any time
    return plain({name: value for name, value in state.items() if name != "metrics_logger"})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_changes_nothing(trained: Any, damage: str, tmp_path: Path) -> None:
    break_it, message = DAMAGES[damage]
    path = Path(trained.save_to_path(tmp_path / "checkpoint"))
    trained.train()
    before = whole(trained)
    break_it(path)
    with pytest.raises((ValueError, FileNotFoundError) if message else Exception) as caught:
        trained.restore_from_path(path)
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value) or not message
    np.testing.assert_equal(whole(trained), before)
    result = trained.train()
    assert result["training_iteration"] == trained.iteration


def test_a_state_that_does_not_fit_changes_nothing(trained: Any) -> None:
    state = trained.get_state()
    trained.train()
    before = whole(trained)
    learner = state["learner_group"]["learner"]
    weights = learner["rl_module"][MODULE]
    name = next(iter(weights))
    learner["rl_module"][MODULE] = {**weights, name: np.zeros((3, 3, 3), np.float32)}
    with pytest.raises(Exception):  # noqa: B017, PT011  torch's or RLlib's own words
        trained.set_state(state)
    np.testing.assert_equal(whole(trained), before)


def test_a_sound_checkpoint_is_restored(trained: Any, tmp_path: Path) -> None:
    path = trained.save_to_path(tmp_path / "checkpoint")
    saved = whole(trained)
    trained.train()
    trained.restore_from_path(path)
    np.testing.assert_equal(whole(trained)["learner_group"], saved["learner_group"])


OTHERS = [
    *[
        pytest.param(CONFIGS[saved], CONFIGS[restored], f"is one of {saved}, not of {restored}", marks=marks)
        for saved, restored, marks in (
            ("AggPPO", "A3C", ()),
            *((*pair, pytest.mark.slow) for pair in (("ES", "DQL"), ("DQL", "QMIX"), ("A3C", "AggPPO"))),
        )
    ],
    *[
        pytest.param(
            ppo,
            lambda model=model: ppo().rl_module(model_config=model),
            rf"module '{MODULE}' .* does not fit: encoder",
            marks=marks,
        )
        for model, marks in (
            ({"fcnet_hiddens": [9]}, ()),
            ({"fcnet_hiddens": [8, 8]}, pytest.mark.slow),
            ({**TINY, "vf_share_layers": True}, pytest.mark.slow),
        )
    ],
]


@pytest.mark.parametrize(("saved", "restored", "message"), OTHERS)
def test_checkpoints_of_another_algorithm_or_network_are_refused(
    saved: Callable[[], Any], restored: Callable[[], Any], message: str, tmp_path: Path, ray_session: None
) -> None:
    one, other = saved().build_algo(), restored().build_algo()
    path = one.save_to_path(tmp_path / "checkpoint")
    before = whole(other)
    with pytest.raises(ValueError, match=message):
        other.restore_from_path(path)
    np.testing.assert_equal(whole(other), before)
    one.stop()
    other.stop()


def test_stocks_checkpoints_go_in_and_ours_into_stock(tmp_path: Path, ray_session: None) -> None:
    stock = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0).rl_module(model_config=TINY)
    stock.training(train_batch_size_per_learner=60, minibatch_size=None, num_epochs=1)
    theirs, ours = stock.build_algo(), ppo().build_algo()
    theirs.train()
    ours.restore_from_path(theirs.save_to_path(tmp_path / "stock"))
    np.testing.assert_equal(ours.learner_group.get_weights(), theirs.learner_group.get_weights())
    ours.train()
    theirs.restore_from_path(ours.save_to_path(tmp_path / "ours"))
    np.testing.assert_equal(ours.learner_group.get_weights(), theirs.learner_group.get_weights())
    with pytest.raises(ValueError, match=r"not seem to be a subclass of .*AggPPO"):
        AggPPO.from_checkpoint(str(tmp_path / "stock"))
    assert isinstance(AggPPOConfig(), PPOConfig)
    theirs.stop()
    ours.stop()
