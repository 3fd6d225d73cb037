"""The wheel and the source distribution, used from outside the checkout with the dependencies of this environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPEC = """
name: outside
baseline: stock
systems:
  stock: {system: "stable_baselines3:PPO"}
  weighted: {system: "sb3_agg:AggPPO", settings: {aggregation: r_weighted}}
environments: {CartPole-v1: {num_agents: 2, settings: {n_steps: 64, batch_size: 32, n_epochs: 1}}}
budget: {updates: 2}
"""


def run(*command: str | Path, cwd: Path, path: Path | None = None, status: int = 0) -> str:
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module", params=["*.whl", "*.tar.gz"], ids=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but what the distribution brings."""
    target = tmp_path_factory.mktemp("installed")
    (distribution,) = built.glob(request.param)
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, distribution, cwd=target)
    return target


def test_distributions_hold_what_they_should(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    assert sdist.stat().st_size < 3 * 2**20
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"rl_agg", "sb3_agg", "rllib_agg"}
    for needed in ("rl_agg/study/report/report.html", "sb3_agg/systems.yaml", "rllib_agg/systems.yaml", "rl_agg/py.typed"):
        assert needed in names
    with tarfile.open(sdist) as content:
        members = [name.partition("/")[2] for name in content.getnames()]
    assert "examples/studies/demo.yaml" in members
    assert "tests/core/test_package.py" in members
    assert not [name for name in members if name.startswith("benchmarks/results")]


def test_a_study_runs_and_is_reported(installed: Path, tmp_path: Path) -> None:
    where = run(
        sys.executable, "-c", "import rl_agg, sb3_agg, rllib_agg; print(rl_agg.__file__)", cwd=tmp_path, path=installed
    )
    assert str(installed) in where
    (tmp_path / "spec.yaml").write_text(SPEC)
    command = installed / "bin" / "rl-agg"
    shown = run(command, "compare", "spec.yaml", "--out", "out", cwd=tmp_path, path=installed)
    assert "Report: out/report.html" in shown
    (tmp_path / "out" / "report.html").unlink()
    run(command, "report", "out", cwd=tmp_path, path=installed)
    assert (tmp_path / "out" / "report.html").is_file()
    assert "r_weighted" in run(command, "systems", cwd=tmp_path, path=installed)
    shown = run(command, "bench", "sb3", cwd=tmp_path, path=installed, status=2)
    assert "the benchmarks come with the repository, not with the package; clone it" in shown


@pytest.mark.parametrize(
    "arguments",
    [("sb3_quickstart.py", "4096"), ("rllib_quickstart.py", "--iterations", "1", "--train-batch-size", "500")],
    ids=str,
)
def test_quickstarts_run(installed: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    script, *rest = arguments
    (tmp_path / script).write_text((ROOT / "examples" / script).read_text())
    run(sys.executable, script, *rest, cwd=tmp_path, path=installed)
