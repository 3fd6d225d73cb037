"""Environment steps and episodes, under RLlib's names."""

from __future__ import annotations

from collections.abc import Callable

from ray.rllib.core import ALL_MODULES
from ray.rllib.utils.metrics import (
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_ENV_STEPS_TRAINED,
    NUM_ENV_STEPS_TRAINED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
)


def log_sampled(log: Callable[..., None], num_steps: int, num_episodes: int, *, prefix: tuple[str, ...]) -> None:
    """Log env steps and episodes, of this round and since the start, by a logger's ``log_value``, under a prefix."""
    for name, lifetime, count in (
        (NUM_ENV_STEPS_SAMPLED, NUM_ENV_STEPS_SAMPLED_LIFETIME, num_steps),
        (NUM_EPISODES, NUM_EPISODES_LIFETIME, num_episodes),
    ):
        log((*prefix, name), count, reduce="sum")
        log((*prefix, lifetime), count, reduce="lifetime_sum", with_throughput=True)


def log_trained(log: Callable[..., None], num_steps: int, *, prefix: tuple[str, ...] = ()) -> None:
    """Log the env steps that were learned from, of this update and since the start, as :func:`log_sampled`."""
    key = (*prefix, ALL_MODULES)
    log((*key, NUM_ENV_STEPS_TRAINED), num_steps, reduce="sum")
    log((*key, NUM_ENV_STEPS_TRAINED_LIFETIME), num_steps, reduce="lifetime_sum", with_throughput=True)
