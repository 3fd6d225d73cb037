"""``rl-agg init``: a study to start from that is valid as it is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rl_agg.study.cli import main
from rl_agg.study.spec.environments import TEAM_BACKENDS
from rl_agg.study.spec.loading import load_study


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


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('no licence')", "own_env cannot be imported: RuntimeError: no licence"),
        ("def x(:", "own_env cannot be imported: SyntaxError: "),
        ("import no_such_library", "own_env needs a module 'no_such_library', which is not installed"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    source: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "own_env", raising=False)
    monkeypatch.syspath_prepend(Path().absolute())
    Path("own_env.py").write_text(source)
    assert main(["init", "own_env:X-v0"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "TASK" not in error
    assert error.count("\n") == 1


def test_the_next_command_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "CartPole-v1", "--out", "my study.yaml"]) == 0
    assert "Next: rl-agg compare 'my study.yaml' --dry-run" in capsys.readouterr().out


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
    for words in ("write my_module:", "smax/TASK"):
        assert (words in error) is (":" not in env)
    assert ("start in the folder of that module" in error) is (":" in env)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("system", ["sb3_agg:AggPPO", "rllib_agg:AggPPO"])
@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Corridor-v0", "if a module of yours registers it, write my_module:Corridor-v0"),
        ("no_module:X-v0", "there is no module 'no_module'; start in the folder of that module"),
        ("tests.study.walks:Corridor-v0", "tests.study.walks registers no such id"),
        ("smax/3m", "'smax/3m' is a team's environment; teams are played by rllib_agg:QMIX"),
    ],
)
def test_a_study_of_an_unknown_environment_says_what_to_write(
    system: str, env: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("study.yaml").write_text(
        f"{{name: A, baseline: a, systems: {{a: {{system: '{system}'}}, b: {{system: '{system}'}}}}, "
        f"environments: {{'{env}': {{}}}}, budget: {{updates: 1}}}}"
    )
    assert main(["compare", "study.yaml", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_the_first_system_of_the_file_is_checked_first(capsys: pytest.CaptureFixture[str]) -> None:
    bad = "{system: 'sb3_agg:AggPPO', settings: {n_steps: many}}"
    Path("study.yaml").write_text(
        f"{{name: A, baseline: a, systems: {{a: {bad}, b: {bad}}}, environments: {{CartPole-v1: {{}}}}, "
        "budget: {updates: 1}}"
    )
    assert main(["compare", "study.yaml", "--dry-run"]) == 2
    assert "rl-agg: a on CartPole-v1, seed 0: n_steps" in capsys.readouterr().err


@pytest.mark.remote
def test_it_runs() -> None:
    assert main(["init", "CartPole-v1"]) == 0
    assert main(["compare", "cartpole-v1.yaml", "--quick", "--workers", "1"]) == 0
    assert Path("runs/cartpole-v1-quick/report.html").is_file()
