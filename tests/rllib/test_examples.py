"""The scripts that users copy run, at small size, and print what they promise."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

SCRIPTS = [
    pytest.param(
        *("rllib_qmix.py", ["--iterations", "2"], "return"),
        marks=pytest.mark.slow,
    ),
    pytest.param(
        *("rllib_multi_learner.py", ["--iterations", "2", "--train-batch-size", "250"], "mixed sign"), marks=pytest.mark.slow
    ),
    pytest.param(
        *("rllib_a3c.py", ["--iterations", "2", "--gradients-per-iteration", "5", "--num-env-runners", "1"], "staleness"),
        marks=pytest.mark.remote,
    ),
    ("rllib_es.py", ["--iterations", "2", "--population", "6", "--expected-messages", "2"], "sent"),
]


def run(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.mark.parametrize(("script", "arguments", "expected"), SCRIPTS)
def test_example_runs(
    script: str,
    arguments: list[str],
    expected: str,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(script, arguments, monkeypatch)
    lines = [line for line in capsys.readouterr().out.splitlines() if expected in line]
    assert len(lines) == 2


@pytest.mark.slow
def test_quickstart_compares_with_stock(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "quickstart.svg"
    arguments = ["--iterations", "2", "--train-batch-size", "500", "--picture", str(picture)]
    run("rllib_quickstart.py", arguments, monkeypatch)
    lines = [line for line in capsys.readouterr().out.splitlines() if ", iteration " in line]
    assert [line.split(", iteration")[0] for line in lines] == ["stock PPO"] * 2 + ["AggPPO, r_weighted"] * 2
    assert ["weights" in line for line in lines] == [False, False, True, True]
    assert picture.read_text().count("<svg") == 1


@pytest.mark.parametrize(
    ("env", "algorithm"),
    [
        pytest.param("CartPole-v1", "agg_impala", marks=pytest.mark.slow),
        pytest.param("HalfCheetah-v5", "impala", marks=pytest.mark.slow),
    ],
)
def test_impala_example_runs(
    env: str, algorithm: str, ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--env", env, "--algorithm", algorithm, "--steps", "400", "--seconds-per-line", "1"]
    run("rllib_impala.py", arguments, monkeypatch)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[0] == "steps"
    assert int(last[1]) >= 400


@pytest.mark.remote
def test_tune_example_runs(
    ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--iterations", "1", "--train-batch-size", "500", "--aggregations", "sum", "r_weighted"]
    run("rllib_tune_sweep.py", [*arguments, "--out", str(tmp_path)], monkeypatch)
    printed = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in printed] == ["sum", "r_weighted"]
