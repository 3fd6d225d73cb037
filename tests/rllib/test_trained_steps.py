"""Environment steps that were learned from are where RLlib and Tune read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rllib_agg import DQLConfig
from tests.rllib.populations import tiny_es
from tests.rllib.qmix_runs import tiny as tiny_qmix
from tests.rllib.results import agg
from tests.rllib.test_a3c import FRAGMENT, tiny_a3c


def tiny_dql() -> DQLConfig:
    return DQLConfig().environment("rl_agg/SimpleGrid-v0").env_runners(num_env_runners=0).training(population=2)


def sampled(result: dict[str, Any]) -> int:
    return int(result["num_env_steps_sampled_lifetime"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (tiny_es, sampled),
        (tiny_dql, sampled),
        (tiny_a3c, lambda result: 2 * 5 * FRAGMENT),
        (tiny_qmix, lambda result: 8 * 2 * agg(result)["updates"]),  # batches of 8 episodes, each of two steps
    ],
    ids=["es", "dql", "a3c", "qmix"],
)
def test_steps_that_were_learned_from(make: Callable[[], Any], expected: Callable[..., int], ray_session: None) -> None:
    algorithm = make().build_algo()
    algorithm.train()
    result = algorithm.train()
    algorithm.stop()
    assert result["learners"]["__all_modules__"]["num_env_steps_trained_lifetime"] == expected(result)


def test_an_iteration_goes_on_until_enough_was_learned_from(ray_session: None) -> None:
    algorithm = tiny_a3c().reporting(min_train_timesteps_per_iteration=6 * FRAGMENT).build_algo()
    assert sampled(algorithm.train()) == 10 * FRAGMENT
    algorithm.stop()
