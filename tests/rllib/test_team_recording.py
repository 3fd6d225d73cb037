"""Pictures of one episode of a team: each backend's, and the example."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rl_agg.seeding import LARGEST_EPISODE_SEED
from rllib_agg import QMIXConfig
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.envs.team.recording import Policy, random_policy, record_episode
from rllib_agg.envs.team.registry import make_team_env
from rllib_agg.qmix.policies import find_policy
from rllib_agg.qmix.rollout import TeamPlayers
from tests.rllib.teams import battles

ENDING = 8
COLORS = {"allies": "#0072b2", "enemies": "#d55e00", "health": "#009e73", "lost health": "#f0b8b8"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "watch_episode.py"
DRAWN = [
    ("lbf/Foraging-5x5-2p-1f-coop-v3", "lbforaging", {"max_episode_steps": 4}),
    ("mpe/simple_spread_v3", "mpe2", {"max_cycles": 4}),
    ("vmas/balance", "vmas", {"max_episode_steps": 4}),
]


def up(spec: TeamSpec, seed: int) -> Policy:
    """Action 1 wherever it is legal."""
    return lambda view: np.where(view.masks[:, :, 1], 1, view.masks.argmax(axis=2))


def is_a_picture(picture: NDArray[np.uint8]) -> bool:
    """Three channels, and not of one colour."""
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and np.ptp(picture) > 100


@pytest.mark.parametrize(("task", "package", "settings"), DRAWN)
def test_a_picture_for_each_step(task: str, package: str, settings: dict[str, Any]) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'rl-agg[marl]'")
    env = make_team_env(task, 2, settings=settings)
    recording = record_episode(env, up(env.spec, 0))
    env.close()
    assert (recording.num_steps, len(recording.pictures)) == (4, 5)
    assert all(is_a_picture(picture) for picture in recording.pictures)
    assert any((picture != recording.pictures[0]).any() for picture in recording.pictures)


def test_foragers_are_drawn_where_they_are() -> None:
    """A cell with a forager is dark somewhere; an empty one is white inside."""
    pytest.importorskip("lbforaging", reason="lbforaging is not installed: pip install 'rl-agg[marl]'")
    env: Any = make_team_env("lbf/Foraging-5x5-2p-1f-coop-v3", 1)
    env.reset(np.array([True]), np.array([3]))
    picture = env.render()
    world = env.copies[0].env
    taken = {tuple(map(int, player.position)) for player in world.players} | {
        tuple(cell) for cell in np.argwhere(world.field).tolist()
    }
    inside = {
        cell: picture[51 * cell[0] + 8 : 51 * cell[0] + 44, 51 * cell[1] + 8 : 51 * cell[1] + 44] for cell in np.ndindex(5, 5)
    }
    assert {cell for cell, part in inside.items() if (part < 200).any()} == {(row, column) for row, column in taken}
    env.close()


def test_smax_draws_what_was_played() -> None:
    pytest.importorskip("jaxmarl", reason="JaxMARL is not installed: pip install 'rl-agg[marl]'")
    env = battles("3m")
    seen: list[tuple[Any, Any]] = []

    def policy(view: Any) -> Any:
        actions = np.where(
            view.masks[:, :, 5:].any(axis=2), 5 + view.masks[:, :, 5:].argmax(axis=2), view.masks[:, :, 1] * -3 + 4
        )
        seen.append((env.battles.units, actions))
        return actions

    recording = record_episode(env, policy)
    assert recording.num_steps == len(seen) == len(env.filmed)
    assert len(recording.pictures) == 2 * recording.num_steps + ENDING
    assert recording.won is not None
    for (units, actions), (_, filmed, all_actions) in zip(seen, env.filmed, strict=True):
        np.testing.assert_array_equal(units.unit_positions[0], filmed.unit_positions)
        assert [int(all_actions[f"ally_{number}"]) for number in range(3)] == actions[0].tolist()
    assert all(is_a_picture(picture) for picture in recording.pictures)
    shown = {name: [how_much_of(picture, color) for picture in recording.pictures] for name, color in COLORS.items()}
    assert all(shown[name][0] > 0 for name in ("allies", "enemies", "health"))
    assert shown["lost health"][0] == 0  # nobody has been hit
    assert max(shown["lost health"]) > 0
    alive = np.asarray(env.battles.units.unit_alive[0])
    assert [shown[side][-1] > 0 for side in ("allies", "enemies")] == [alive[:3].any(), alive[3:].any()]


def how_much_of(picture: NDArray[np.uint8], color: str) -> int:
    """Pixels of a colour."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(picture.astype(int) - wanted).sum(axis=2) < 12).sum())


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mpe2", reason="mpe2 is not installed: pip install 'rl-agg[marl]'")
    out = tmp_path / "deep" / "episode.gif"
    arguments = ["--env", "mpe/simple_spread_v3", "--out", str(out), "--policy", f"{__name__}:up", "--seed", "4"]
    monkeypatch.setitem(sys.modules, __name__, sys.modules[up.__module__])
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "after 25 steps, return -" in capsys.readouterr().out
    with Image.open(out) as gif:
        shown = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shown.append(gif.info["duration"])
        assert sum(shown) == 26 * 240  # 250 by 26 pictures for 25 steps, in the hundredths of a second that GIFs count


def test_policies_by_name() -> None:
    assert find_policy("random") is random_policy
    assert find_policy("rllib_agg.envs.team.recording:random_policy") is random_policy
    with pytest.raises(ValueError, match="a folder that QMIX was saved to or MODULE:FUNCTION, got 'best'"):
        find_policy("best")


def test_random_actions_are_legal_and_all_of_them() -> None:
    env = make_team_env("matrix/climbing", 500)
    view = env.reset(np.ones(500, dtype=np.bool_), np.arange(500))
    view.masks[:, 1, 1] = False
    actions = random_policy(env.spec, 0)(view)
    assert np.bincount(actions[:, 0]).min() > 120
    assert np.bincount(actions[:, 1], minlength=3).tolist()[1] == 0


def test_an_environment_without_render_is_refused() -> None:
    with pytest.raises(ValueError, match="this environment cannot be drawn"):
        record_episode(make_team_env("matrix/climbing", 1), lambda view: np.zeros((1, 2), dtype=np.int64))


def test_a_checkpoint_plays_as_in_evaluation(tmp_path: Path, ray_session: None) -> None:
    pytest.importorskip("lbforaging", reason="lbforaging is not installed: pip install 'rl-agg[marl]'")
    task, limit = "lbf/Foraging-5x5-2p-1f-v3", {"max_episode_steps": 12}
    config = QMIXConfig().environment(task, env_config=limit).env_runners(num_envs_per_env_runner=3).debugging(seed=0)
    algorithm = config.build_algo()
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "saved"))
    seed = np.random.default_rng(5).integers(LARGEST_EPISODE_SEED, size=3)
    env = make_team_env(task, 3, settings=limit)
    played = TeamPlayers(env, algorithm.learner.team.networks, dtype=np.dtype(np.float32)).play(
        algorithm.learner.team.networks, 0.0, np.random.default_rng(5)
    )
    algorithm.stop()
    policy = find_policy(str(tmp_path / "saved"))(env.spec, 0)
    view, actions = env.reset(np.ones(3, dtype=np.bool_), seed), []
    for _ in range(played.episodes.actions.shape[1]):
        actions.append(policy(view))
        view = env.step(actions[-1]).view
    for copy, length in enumerate(played.episodes.lengths):
        np.testing.assert_array_equal(np.stack(actions)[:length, copy], played.episodes.actions[copy, :length])
    with pytest.raises(ValueError, match="the checkpoint is of another team: its observations are"):
        find_policy(str(tmp_path / "saved"))(make_team_env("matrix/climbing", 1).spec, 0)
    with pytest.raises(ValueError, match="is not a checkpoint of QMIX"):
        find_policy(str(tmp_path))
