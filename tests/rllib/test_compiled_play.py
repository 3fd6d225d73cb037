"""Whole episodes as one compiled program, against the same episodes step by step."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_agg.envs.smax import xla
from rllib_agg.envs.smax.backend import SmaxTeams
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.rollout import Played, TeamPlayers
from tests.rllib.teams import COPIES, battles

pytestmark = pytest.mark.skipif(find_spec("jaxmarl") is None, reason="JaxMARL is not installed: pip install 'rl-agg[marl]'")


class Stepped(SmaxTeams):
    """Steps by itself, and so is not compiled as a whole."""

    steps = 0

    def step(self, actions: Any) -> Any:
        self.steps += 1
        return super().step(actions)


def players(env: SmaxTeams, shared: bool, networks: type[AgentNetworks] = AgentNetworks) -> TeamPlayers:
    spec = env.spec
    made = networks(spec.num_agents, spec.num_actions, spec.observation_size, hidden=16, shared=shared, agent_ids=shared)
    made.initialize(torch.Generator().manual_seed(0), orthogonal=False, same=False)
    with torch.no_grad():  # values far apart: rounding then chooses no other action
        for parameter in made.parameters():
            parameter.mul_(3)
    return TeamPlayers(env, made, dtype=np.dtype(np.float32))


def stepped(env: SmaxTeams) -> Stepped:
    return Stepped(env.compiled, env.num_envs, credit=env.credit)


def assert_same(found: Played, wanted: Played) -> None:
    assert found.num_steps == wanted.num_steps > COPIES
    for name, array in wanted.episodes.arrays().items():
        own = getattr(found.episodes, name)
        assert (own.shape, own.dtype) == (array.shape, array.dtype)
        np.testing.assert_allclose(own, array, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.credits, wanted.credits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.returns, wanted.returns, rtol=1e-5, atol=1e-6)
    assert (found.won == wanted.won).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize(("credit", "shared"), [("contribution", True), ("team", False)])
def test_compiled_episodes_are_those_of_single_steps(credit: str, shared: bool, epsilon: float) -> None:
    env = battles("3m", credit=credit)
    found, wanted = (
        team.play_groups(team.networks, epsilon, [np.random.default_rng(seed) for seed in range(2)])
        for team in (players(env, shared), players(stepped(env), shared))
    )
    for each in zip(found, wanted, strict=True):
        assert_same(*each)


def test_an_episode_does_not_depend_on_what_else_is_played() -> None:
    """Copies take the next episode when theirs has ended, so that others are played in other copies."""
    team = players(battles("3m"), shared=True)
    together = team.play_groups(
        team.networks, 0.5, [np.random.default_rng(seed) for seed in range(5)]
    )  # a program has four groups
    for seed, found in enumerate(together):
        alone = team.play(team.networks, 0.5, np.random.default_rng(seed))
        for name, array in alone.episodes.arrays().items():
            np.testing.assert_array_equal(getattr(found.episodes, name), array, err_msg=name)
        np.testing.assert_array_equal(found.credits, alone.credits)


def test_an_own_step_and_own_networks_are_used() -> None:
    class Twice(AgentNetworks):
        """Counts its calls."""

        calls = 0

        def forward(self, *arguments: Any) -> Any:
            self.calls += 1
            return super().forward(*arguments)

    env = stepped(battles("3m"))
    team = players(env, shared=True)
    team.play(team.networks, 0.0, np.random.default_rng(0))
    assert env.steps > 1
    team = players(battles("3m"), shared=True, networks=Twice)
    team.play(team.networks, 0.0, np.random.default_rng(0))
    assert team.networks.calls > 1


def test_hooks_and_replaced_layers_are_used() -> None:
    calls: list[int] = []
    team = players(battles("3m"), shared=True)
    assert team.networks.is_plain
    handle = team.networks.head.register_forward_hook(lambda *_: calls.append(0))
    team.play(team.networks, 0.0, np.random.default_rng(0))
    assert len(calls) > 1
    handle.remove()
    assert team.networks.is_plain
    team.networks.head = torch.nn.Identity()
    assert not team.networks.is_plain


def test_programs_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert xla.default_cache() == tmp_path / "rl-agg" / "jax"
