"""Names of environments, and the errors for unknown ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import pytest
from ray.tune import register_env

from rllib_agg.envs.matrix import MatrixTeams, climbing
from rllib_agg.envs.team import registry
from rllib_agg.envs.team.registry import make_team_env, register_team_env
from tests.rllib.named_worlds import Corridor


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown backend 'smacs' \(did you mean 'smac'\?\); choose from lbf, matrix, mpe"):
        make_team_env("smacs/3m", 1)
    with pytest.raises(ValueError, match=r"unknown environment '3m': it is not registered with Ray Tune; .* BACKEND/TASK"):
        make_team_env("3m", 1)
    with pytest.raises(ValueError, match=r"unknown matrix game 'two_steps' \(did you mean 'two_step'\?\)"):
        make_team_env("matrix/two_steps", 1)
    with pytest.raises(
        ValueError, match=r"unknown credit 'teams' \(did you mean 'team'\?\); choose from contribution, env, team"
    ):
        make_team_env("matrix/two_step", 1, credit="teams")
    with pytest.raises(ValueError, match="matrix/penalty has no setting 'fine'; choose from penalty"):
        make_team_env("matrix/penalty", 1, settings={"fine": 3})
    with pytest.raises(ValueError, match="num_envs must be an integer >= 1, got 0"):
        make_team_env("matrix/two_step", 0)
    with pytest.raises(ValueError, match="an environment must be a name or a function that makes it, got 3"):
        make_team_env(3, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "package", "message"),
    [
        (
            "lbf/Foraging-8x8-2p-2f-co-v3",
            "lbforaging",
            r"unknown LBF task .*did you mean \'Foraging-8x8-2p-2f-\S+\'\?\); the names are",
        ),
        ("mpe/simple_spread", "mpe2", r"unknown MPE task 'simple_spread' \(did you mean 'simple_spread_v3'\?\); choose from"),
        ("vmas/balanse", "vmas", r"unknown VMAS scenario 'balanse' \(did you mean 'balance'\?\); choose from"),
    ],
)
def test_unknown_tasks_are_refused_with_the_nearest(task: str, package: str, message: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'rl-agg[marl]'")
    with pytest.raises(ValueError, match=message):
        make_team_env(task, 1)


@pytest.mark.parametrize(
    ("task", "package", "settings", "message"),
    [
        ("lbf/Foraging-8x8-2p-2f-coop-v3", "lbforaging", {"sihgt": 2}, "has no setting 'sihgt'; choose from field_size"),
        ("mpe/simple_spread_v3", "mpe2", {"n": 3}, "mpe/simple_spread_v3 has no setting 'n'; choose from N, agent_types"),
        (
            "mpe/simple_spread_v3",
            "mpe2",
            {"continuous_actions": True},
            "a team's actions must be Discrete, and those of 'agent_0'",
        ),
        ("vmas/balance", "vmas", {"agents": 3}, "vmas/balance: Scenario kwargs: {'agents': 3} passed but not used"),
        ("vmas/balance", "vmas", {"device": "cuda"}, "vmas/balance has no setting 'device'; it takes the scenario's own"),
        ("vmas/balance", "vmas", {"team_reward": "max"}, "unknown team_reward 'max'; choose from mean, sum"),
    ],
)
def test_unknown_settings_are_refused(task: str, package: str, settings: Mapping[str, Any], message: str) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'rl-agg[marl]'")
    with pytest.raises(ValueError, match=re.escape(message)):
        make_team_env(task, 1, settings=settings)


@pytest.mark.parametrize(
    ("task", "package"),
    [
        ("lbf/Foraging-8x8-2p-2f-coop-v3", "lbforaging"),
        ("mpe/simple_spread_v3", "mpe2"),
        ("smax/3m", "jaxmarl"),
        ("vmas/balance", "vmas"),
    ],
)
def test_a_backend_that_is_not_installed_names_the_extra(task: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not: its import fails."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    backend = task.partition("/")[0]
    with pytest.raises(ImportError, match=re.escape(f"the backend {backend} needs {package}: pip install 'rl-agg[marl]'")):
        make_team_env(task, 1)


@pytest.mark.skipif(find_spec("lbforaging") is None, reason="lbforaging is not installed: pip install 'rl-agg[marl]'")
def test_settings_reach_the_environment() -> None:
    env = make_team_env("lbf/Foraging-8x8-2p-2f-coop-v3", 1, settings={"max_episode_steps": 7, "players": 3})
    assert (env.spec.max_episode_steps, env.spec.num_agents) == (7, 3)


def test_a_backend_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BACKENDS", dict(registry.BACKENDS))

    def make(task: str, num_envs: int, *, credit: str, settings: Mapping[str, Any]) -> MatrixTeams:
        assert (task, credit, settings) == ("hill/steep", "team", {"a": 1})
        return MatrixTeams(climbing(), num_envs)

    register_team_env("mine", make)
    assert make_team_env("mine/hill/steep", 5, settings={"a": 1}).num_envs == 5
    with pytest.raises(ValueError, match="must not be empty nor have a slash, got 'a/b'"):
        register_team_env("a/b", make)


def test_a_function_and_a_registered_name_are_alike() -> None:
    register_env("corridor_for_two", Corridor)
    for env in ("corridor_for_two", Corridor):
        made = make_team_env(env, 2, settings={"length": 4, "max_episode_steps": 9})
        assert made.spec.max_episode_steps == 9
        assert made.spec.agent_types == ("walker", "walker")


def test_what_is_no_teams_environment_is_refused() -> None:
    with pytest.raises(ValueError, match="must make an RLlib MultiAgentEnv or a PettingZoo ParallelEnv, got dict"):
        make_team_env(dict, 1)
    with pytest.raises(ValueError, match=r"Corridor has no time limit, .*; set max_episode_steps in its settings"):
        make_team_env(Corridor, 1)
    for name, value in {"won": True, "state": 3}.items():
        with pytest.raises(ValueError, match=f"{name} must be a function, got {value}"):
            make_team_env(Corridor, 1, settings={"max_episode_steps": 9, name: value})


def test_pettingzoos_turn_based_environments_are_refused_with_the_remedy() -> None:
    from pettingzoo.classic import tictactoe_v3

    for make in (tictactoe_v3.env, tictactoe_v3.raw_env):
        with pytest.raises(ValueError, match=r"an AECEnv: convert it by pettingzoo.utils.conversions.aec_to_parallel\(env\)"):
            make_team_env(lambda _, make=make: make(), 1)


def test_what_has_one_agent_is_refused() -> None:
    with pytest.raises(ValueError, match="which has one agent: use another algorithm"):
        make_team_env(lambda _: gym.make("CartPole-v1"), 1)
