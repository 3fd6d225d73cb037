"""The adapters of SMAC, SMACv2 and SMAClite, on stand-ins: sizes, ends, credit, crashes and installation checks."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.loading import load_study
from rllib_agg.envs.starcraft.install import StarCraftError
from rllib_agg.envs.team.registry import make_team_env
from tests.rllib import starcraft_stand_in
from tests.rllib.qmix_runs import tiny
from tests.rllib.starcraft_stand_in import MAPS, StarCraft2Env
from tests.rllib.teams import begin, play, random_policy

STOP, FIRST = 1, 6
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_imports() -> Iterator[None]:
    """Remove the packages that a test has imported."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("smac", "smacv2", "smaclite")]:
        del sys.modules[name]


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """StarCraft II with all maps, and the packages."""
    for name, module in starcraft_stand_in.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "Versions" / "Base75689").mkdir(parents=True)
    maps = tmp_path / "Maps" / "SMAC_Maps"
    maps.mkdir(parents=True)
    for name in (*MAPS, "32x32_flat"):
        (maps / f"{name}.SC2Map").touch()
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    StarCraft2Env.made.clear()
    return tmp_path


def test_the_papers_table_on_its_own_maps_can_start(game: Path) -> None:
    cells = load_study(ROOT / "benchmarks" / "replication" / "pps_table_2_smac.yaml").cells
    assert {cell.environment_name for cell in cells} == {f"smac/{name}" for name in MAPS}
    for cell in {(cell.system_name, cell.environment_name): cell for cell in cells}.values():
        runner_for(cell).check(cell)  # raises what is wrong


class Battles:
    """An environment after its first reset; ``game`` is the stand-in of its first copy."""

    def __init__(self, task: str, num_envs: int = 1, **settings: Any) -> None:
        self.env: Any = make_team_env(task, num_envs, credit="contribution", settings=settings)
        self.view, self.spec = begin(self.env), self.env.spec
        if not task.startswith("smaclite"):
            self.game = next(made for made in StarCraft2Env.made if made.running)

    def step(self, **by_agent: int) -> Any:
        """All stop (the dead do nothing) but the named ones: ``a0=6``."""
        actions = np.where(self.view.masks[:, :, STOP], STOP, 0)
        for agent, action in by_agent.items():
            actions[:, int(agent[1:])] = action
        step = self.env.step(actions)
        self.view = step.view
        return step


@pytest.mark.parametrize("task", MAPS)
def test_the_maps_of_the_paper(task: str, game: Path) -> None:
    battles = Battles(f"smac/{task}", 2)
    n, m, limit, d, s, _ = MAPS[task]
    spec = battles.spec
    assert (spec.num_agents, spec.num_actions, spec.max_episode_steps) == (n, 6 + m, limit)
    assert (spec.observation_size, spec.state_size) == (d, s)
    counts = {kind: spec.agent_types.count(kind) for kind in spec.agent_types}
    mixed = {"2s3z": {"stalker": 2, "zealot": 3}, "MMM2": {"marauder": 2, "marine": 7, "medivac": 1}}
    assert counts == mixed.get(task, {"unit": n})
    for _, _, step in play(battles.env, random_policy(), 20):
        scale = 20 / next(made for made in StarCraft2Env.made if made.running).max_reward
        bonus = np.where(step.won, 200 * scale, 0)
        np.testing.assert_allclose(step.agent_rewards.sum(axis=1), step.rewards - bonus, atol=1e-5)


def test_damage_and_kills_are_credited_to_the_attackers(game: Path) -> None:
    """20 of the first and 10 of the second are one estimate of 15 each: the game does not report hits."""
    battles = Battles("smac/3m", reward_scale=False)
    step = battles.step(a0=FIRST, a1=FIRST)
    assert step.agent_rewards.tolist() == [[15, 15, 0]]
    step = battles.step(a1=FIRST, a2=FIRST + 1)
    assert step.agent_rewards.tolist() == [[0, 10, 10]]
    step = battles.step(a0=FIRST, a2=FIRST)  # 10 are left, and 10 for the kill
    assert step.agent_rewards.tolist() == [[10, 0, 10]]
    assert battles.game.enemies[0].health == 0


def test_healing_is_credited(game: Path) -> None:
    battles = Battles("smac/MMM2", reward_scale=False)
    battles.game.agents[3].health = 20.0
    step = battles.step(a0=FIRST, a9=FIRST + 3)
    expected = np.zeros(10)
    expected[[0, 9]] = 20 * np.array([20, 5]) / 25  # of the team's 20, in proportion to 20 of damage and 5 of healing
    np.testing.assert_allclose(step.agent_rewards[0], expected)


def test_a_won_battle(game: Path) -> None:
    battles = Battles("smac/3m")
    scale = 20 / battles.game.max_reward
    for unit in battles.game.enemies.values():
        unit.health = unit.shield = 1.0
    step = battles.step(a0=FIRST, a1=FIRST + 1, a2=FIRST + 2)
    assert (step.terminated.tolist(), step.truncated.tolist(), step.won.tolist()) == ([True], [False], [True])
    np.testing.assert_allclose(step.rewards, (3 * 12 + 200) * scale, rtol=1e-6)
    np.testing.assert_allclose(step.agent_rewards, [[12 * scale] * 3], rtol=1e-6)


def test_a_lost_battle(game: Path) -> None:
    battles = Battles("smac/3m", reward_defeat=-50)
    battles.game.doomed = {0: 1, 1: 1, 2: 1}
    step = battles.step()
    assert (step.terminated.tolist(), step.truncated.tolist(), step.won.tolist()) == ([True], [False], [False])
    np.testing.assert_allclose(step.agent_rewards, 0, atol=1e-6)
    assert step.view.masks[0, :, 0].all()
    assert not step.lost.any()


def test_only_medivacs_left_is_an_end(game: Path) -> None:
    battles = Battles("smac/MMM2")
    battles.game.doomed = dict.fromkeys(range(9), 1)
    step = battles.step()
    assert step.terminated.all()


@pytest.mark.parametrize("task", MAPS)
def test_a_time_out_is_no_end(task: str, game: Path) -> None:
    """SMAC says terminated."""
    battles = Battles(f"smac/{task}")
    battles.game.episode_steps = MAPS[task][2] - 2
    first, last = battles.step(), battles.step()
    assert not (first.terminated | first.truncated).any()
    assert (last.terminated.tolist(), last.truncated.tolist(), last.lost.tolist()) == ([False], [True], [False])


@pytest.mark.parametrize("crash", ["quiet", "loud"])
def test_a_crash_costs_the_episode_and_no_more(crash: str, game: Path, caplog: pytest.LogCaptureFixture) -> None:
    battles = Battles("smac/3m", 2)
    battles.step()
    battles.game.crashes = {1: crash}
    step = battles.step()
    assert step.lost.tolist() == [True, False]
    assert step.truncated.tolist() == [True, False]
    assert not (step.terminated | step.won).any()
    assert (step.rewards[0], step.agent_rewards[0].tolist()) == (0, [0, 0, 0])
    assert "StarCraft II crashed" in caplog.text
    assert "1 times so far" in caplog.text
    assert not battles.game.running  # what it restarted by itself does not stay behind
    battles.view = battles.env.reset(step.truncated, np.array([3, 3]))
    step = battles.step(a0=FIRST)
    assert not (step.lost | step.truncated).any()
    assert (step.rewards > 0).all()
    assert sum(made.running for made in StarCraft2Env.made) == 2
    battles.env.close()
    assert not any(made.running for made in StarCraft2Env.made)


def test_a_game_that_does_not_start_is_started_once_more(game: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    battles = Battles("smac/3m")
    battles.game.crashes = {-1: "reset"}
    battles.view = begin(battles.env)
    assert not battles.step().lost.any()
    assert battles.env.copies[0].num_crashes == 1


def test_errors_that_are_not_the_games_are_raised(game: Path) -> None:
    battles = Battles("smac/3m")
    battles.game.crashes = {0: "bug"}
    with pytest.raises(KeyError, match="ours"):
        battles.step()


def test_seeds_are_given_to_the_games(game: Path) -> None:
    env = make_team_env("smac/3m", 2)
    env.reset(np.ones(2, dtype=np.bool_), np.array([5, 2**40 + 6]))
    assert [made.seed for made in StarCraft2Env.made if made.running] == [5, 6]
    fixed = make_team_env("smac/3m", 1, settings={"seed": 77})
    begin(fixed)
    assert StarCraft2Env.made[-1].seed == 77


def test_smacv2(game: Path) -> None:
    battles = Battles("smacv2/terran_10_vs_11")
    assert (battles.spec.num_agents, battles.spec.num_actions, battles.spec.max_episode_steps) == (10, 17, 200)
    assert battles.game.map_name == "10gen_terran"
    step = battles.step(a1=FIRST)
    assert step.agent_rewards[0].argmax() == 1
    with pytest.raises(ValueError, match=r"unknown SMACv2 task 'terran_5' .*; choose from protoss_10_vs_10"):
        make_team_env("smacv2/terran_5", 1)


@pytest.fixture
def lite(game: Path) -> Iterator[None]:
    for name, army in (("2s3z", ["STALKER"] * 2 + ["ZEALOT"] * 3), ("MMM2", ["MARINE", "MARINE", "MEDIVAC"])):
        gym.register(f"smaclite/{name}-v0", entry_point=starcraft_stand_in.SMACliteEnv, kwargs={"map_info": army})
    yield
    for name in ("2s3z", "MMM2"):
        del gym.registry[f"smaclite/{name}-v0"]


def test_smaclite(lite: None) -> None:
    battles = Battles("smaclite/2s3z", use_cpp_rvo2=True)
    assert battles.spec.agent_types == ("stalker",) * 2 + ("zealot",) * 3
    assert battles.spec.max_episode_steps == 120
    scale = 20 / 280
    step = battles.step(a0=FIRST, a1=FIRST, a2=FIRST + 1)
    np.testing.assert_allclose(step.agent_rewards, [np.array([10, 10, 10, 0, 0]) * scale], rtol=1e-6)
    step = battles.step(a0=FIRST, a1=FIRST + 1)
    np.testing.assert_allclose(step.agent_rewards, [np.array([20, 10, 0, 0, 0]) * scale], rtol=1e-6)
    step = battles.step(a3=FIRST + 1)
    assert (step.terminated.tolist(), step.won.tolist()) == ([True], [True])
    np.testing.assert_allclose(step.agent_rewards, [np.array([0, 0, 0, 20, 0]) * scale], rtol=1e-6)
    np.testing.assert_allclose(step.rewards, 220 * scale, rtol=1e-6)
    assert battles.env.render().shape == (8, 9, 3)


def test_smaclite_is_cut_off_after_smacs_time(lite: None) -> None:
    env = make_team_env("smaclite/MMM2", 1)
    view = begin(env)
    assert env.spec.agent_types == ("marine", "marine", "medivac")
    steps = [env.step(np.full((1, 3), STOP)) for _ in range(180)]
    assert [bool(step.truncated[0]) for step in steps] == [False] * 179 + [True]
    assert not any(step.terminated[0] for step in steps)
    assert view.masks[0, :, 0].tolist() == [False] * 3


def test_unknown_maps_and_settings(lite: None) -> None:
    with pytest.raises(ValueError, match=r"unknown SMAC map 'MMM3' \(did you mean 'MMM2'\?\); choose from 10m_vs_11m, 2s3z"):
        make_team_env("smac/MMM3", 1)
    with pytest.raises(ValueError, match=r"unknown SMAClite map 'corridor'; choose from 2s3z, MMM2"):
        make_team_env("smaclite/corridor", 1)
    with pytest.raises(ValueError, match="smaclite/2s3z has no setting 'cpp'; choose from max_episode_steps"):
        make_team_env("smaclite/2s3z", 1, settings={"cpp": True})
    with pytest.raises(ValueError, match="reward_sparse=True leaves no reward but that of winning"):
        make_team_env("smac/3m", 1, credit="contribution", settings={"reward_sparse": True})
    with pytest.raises(ValueError, match=r"smac/3m has no credit 'env'; choose from contribution, team"):
        make_team_env("smac/3m", 1, credit="env")


@pytest.mark.parametrize("task", ["smac/3m", "smacv2/terran_5_vs_5"])
def test_a_reward_for_winning_alone_has_no_contributions(task: str, game: Path, ray_session: None) -> None:
    assert make_team_env(task, 1).spec.credits == {"contribution"}
    config = tiny(task, parameter_sharing="rs_pps").environment(env_config={"reward_sparse": True})
    with pytest.warns(UserWarning, match="parameter_sharing='rs_pps' with credit='team' counts all agents alike"):
        algorithm = config.build_algo()
    spec = algorithm.agents.env.spec
    assert spec.credits == set()
    assert algorithm.config.credit_for(spec) == "team"
    algorithm.stop()


def test_without_the_game(game: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SC2PATH", str(game / "elsewhere"))
    with pytest.raises(StarCraftError, match=r"no StarCraft II in .*elsewhere: download it from https.*SC2PATH"):
        make_team_env("smac/3m", 1)


@pytest.mark.parametrize("task", ["smac/MMM2", "smacv2/zerg_5_vs_5"])
def test_without_the_maps(task: str, game: Path) -> None:
    maps = game / "Maps" / "SMAC_Maps"
    name = "MMM2" if task == "smac/MMM2" else "32x32_flat"
    (maps / f"{name}.SC2Map").unlink()
    with pytest.raises(StarCraftError, match=rf"the map {name} is not in .*SMAC_Maps: download https.*SMAC_Maps.zip"):
        make_team_env(task, 1)
    for left in maps.iterdir():
        left.unlink()
    maps.rmdir()
    with pytest.raises(StarCraftError, match=r"no maps in .*SMAC_Maps: download https"):
        make_team_env(task, 1)


@pytest.mark.parametrize("backend", ["smac", "smacv2", "smaclite"])
def test_without_the_package(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, backend, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    task = {"smac": "3m", "smacv2": "terran_5_vs_5", "smaclite": "2s3z"}[backend]
    with pytest.raises(ImportError, match=rf"the backend {backend} needs {backend}, which is not on PyPI: pip install git"):
        make_team_env(f"{backend}/{task}", 1)


def test_the_wrong_smac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SMAC3, which is what PyPI has under that name: there is no smac.env."""
    (tmp_path / "smac").mkdir()
    (tmp_path / "smac" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="on PyPI, smac is SMAC3, an AutoML tool; pip uninstall smac; pip install git"):
        make_team_env("smac/3m", 1)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise TypeError('Descriptors cannot be created directly.')", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"),
        ("from google.protobuf import service_of_old", "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python"),
        (
            "class VersionError(Exception): pass\nraise VersionError('Protobuf gencode')",
            "is older than the installed protobuf",
        ),
        ("import pysc2_of_nobody", "smac needs pysc2_of_nobody: pip install pysc2_of_nobody"),
    ],
)
def test_what_smac_needs(code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smac" / "env").mkdir(parents=True)
    (tmp_path / "smac" / "__init__.py").touch()
    (tmp_path / "smac" / "env" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=re.escape(message)):
        make_team_env("smac/3m", 1)
