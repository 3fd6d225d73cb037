"""Each import package pulls in its own framework and no other."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"rl_agg": set(), "sb3_agg": {"stable_baselines3", "sb3_contrib"}, "rllib_agg": {"ray"}}


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_importing_a_package_imports_no_other_framework(package: str) -> None:
    script = f"from {package} import *; import sys, json; print(json.dumps(list(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    frameworks = {"stable_baselines3", "sb3_contrib", "ray"} & set(json.loads(run.stdout.splitlines()[-1]))
    assert frameworks <= FRAMEWORKS[package]


def required_by(extra: str) -> set[str]:
    """Names of the distributions that an extra adds."""
    adding = [line for line in requires("rl-agg") or [] if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    return {re.split(r"[^A-Za-z0-9_-]", line)[0] for line in adding}


def test_extras_keep_the_frameworks_apart() -> None:
    assert required_by("sb3") == {"stable-baselines3", "sb3-contrib", "tqdm", "rich"}
    assert required_by("rllib") == {"ray"}


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], check=True, timeout=900)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "package", "absent"),
    [
        ("", "rl_agg", {"stable_baselines3", "sb3_contrib", "ray", "gymnasium"}),
        ("[sb3]", "sb3_agg", {"ray"}),
        ("[rllib]", "rllib_agg", {"stable_baselines3", "sb3_contrib"}),
    ],
    ids=["core", "sb3", "rllib"],
)
def test_an_extra_installs_alone_in_a_bare_environment(
    extra: str, package: str, absent: set[str], wheel: Path, tmp_path: Path
) -> None:
    """The built wheel, not the checkout: what it leaves out is missed here."""
    venv.create(tmp_path)
    python = tmp_path / "bin" / "python"
    # Byte code of all of torch takes longer than the import of what is used
    pip("--python", python, "install", "--no-compile", "--constraint", ROOT / "constraints.txt", f"{wheel}{extra}")
    script = f"""
from {package} import *
import importlib.util, json
from importlib import metadata, resources
names = {sorted(absent)}
print(json.dumps({{
    "found": [name for name in names if importlib.util.find_spec(name)],
    "typed": resources.files("{package}").joinpath("py.typed").is_file(),
    "files": sorted(str(path) for path in metadata.files("rl-agg")),
}}))"""
    run = subprocess.run([python, "-c", script], check=True, cwd=tmp_path, capture_output=True, text=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["found"] == []
    assert found["typed"]
    assert {path.split("/")[0] for path in found["files"] if path.endswith(".py")} == set(FRAMEWORKS)
    assert set(found["files"]) >= {path for path in tracked_files() if path.split("/")[0] in FRAMEWORKS}


def tracked_files() -> set[str]:
    run = subprocess.run(["git", "ls-files"], check=True, cwd=ROOT, capture_output=True, text=True)
    return set(run.stdout.splitlines())


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """As if Stable-Baselines3 were not installed: its import fails."""
    script = "import sys; sys.modules['stable_baselines3'] = None; import sb3_agg"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "pip install 'rl-agg[sb3]'" in run.stderr.splitlines()[-1]
