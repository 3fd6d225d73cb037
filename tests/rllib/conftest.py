"""Small configs, and episodes that a real env runner sampled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

from rllib_agg.envs.team.registry import BACKENDS
from tests.rllib.ppo_configs import tiny_ppo
from tests.rllib.team_worlds import make_corridor


@pytest.fixture
def corridor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team's environment of the tests' own, ``walk/corridor``."""
    monkeypatch.setitem(BACKENDS, "walk", make_corridor)


@pytest.fixture(scope="session")
def spaces(ray_session: None) -> dict[str, Any]:
    return {"default_policy": _runner().get_spaces()["default_policy"]}


@pytest.fixture(scope="session")
def sample(ray_session: None) -> Callable[[], list[Any]]:
    """The same 200 steps of 5 agents each time it is called, in fresh copies: learners change episodes in place."""
    runner = _runner()
    runner.sample(num_timesteps=73)  # so that what follows starts in the middle of episodes
    episodes = runner.sample(num_timesteps=200)
    return lambda: copy.deepcopy(episodes)


def _runner() -> SingleAgentEnvRunner:
    config = tiny_ppo()
    config.validate()
    return SingleAgentEnvRunner(config=config)
