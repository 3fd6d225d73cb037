"""``rl-agg init``: a study to start from that is valid as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_agg.study.cli import main
from rl_agg.study.spec.loading import load_study
from rl_agg.study.spec.starting import TEAM_BACKENDS


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("env", "file"),
    [("CartPole-v1", "cartpole-v1.yaml"), ("rl_agg.envs:rl_agg/SimpleGrid-v0", "rl_agg-envs-rl_agg-simplegrid-v0.yaml")],
)
def test_a_gymnasium_environment(env: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", env]) == 0
    assert f"Wrote {file}. Next: rl-agg compare {file} --dry-run" in capsys.readouterr().out
    study = load_study(Path(file))
    assert (study.name, list(study.environments)) == (env, [env])
    assert len(study.cells) == 3 * 6
    assert len(load_study(Path(file), quick=True).cells) == 3
    assert main(["compare", file, "--dry-run"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == [file]


def test_a_team(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "matrix/climbing", "--out", "team.yaml"]) == 0
    assert {system.system for system in load_study(Path("team.yaml")).systems.values()} == {"rllib_agg:QMIX"}
    assert main(["compare", "team.yaml", "--dry-run"]) == 0
    assert "would run      A-PPS on matrix/climbing, seed 5" in capsys.readouterr().out


def test_teams_are_those_of_rllib_agg() -> None:
    from rllib_agg.envs.team.registry import BACKENDS

    assert sorted(BACKENDS) == sorted(TEAM_BACKENDS)


def test_an_existing_file_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    Path("cartpole-v1.yaml").write_text("mine")
    assert main(["init", "CartPole-v1"]) == 2
    assert capsys.readouterr().err == (
        "rl-agg: cartpole-v1.yaml exists and is kept; name another file by --out, or remove it\n"
    )
    assert Path("cartpole-v1.yaml").read_text() == "mine"


@pytest.mark.parametrize("env", ["CartPol-v1", "CartPole", "", "no_module:X-v0", "nothing/X-v0", "smax"])
def test_an_unknown_environment_is_one_line(env: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", env]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rl-agg: no environment {env!r}: ")
    assert error.count("\n") == 1
    assert "smax/TASK" in error
    assert ("write my_module:" in error) is (":" not in env)
    assert not list(Path().iterdir())


@pytest.mark.remote
def test_it_runs() -> None:
    assert main(["init", "CartPole-v1"]) == 0
    assert main(["compare", "cartpole-v1.yaml", "--quick", "--workers", "1"]) == 0
    assert Path("runs/cartpole-v1-quick/report.html").is_file()
