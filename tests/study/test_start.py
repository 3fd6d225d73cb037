"""The command answers at once: what takes seconds to import is not imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "torch",
    "ray",
    "pandas",
    "pyarrow",
    "matplotlib",
    "scipy",
    "numpy",
    "gymnasium",
    "stable_baselines3",
    "jax",
}
SCRIPT = f"""
import contextlib, sys, webbrowser
webbrowser.open = lambda address: True
from rl_agg.study.cli import main
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
print(sorted({HEAVY} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    "arguments",
    ["--help", "--version", "systems", "open .", "compare --help", "init --help", "merge --help", "init smax/3m", "no"],
)
def test_nothing_heavy_is_imported_for(arguments: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    command = [sys.executable, "-c", SCRIPT, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.endswith("[]\n")
    assert "Traceback" not in done.stderr


WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, *_):
        if name in {"torch", "ray", "pandas"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
from rl_agg.study.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_study_without_file_locks_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").touch()
    script = "import sys; sys.modules['fcntl'] = None\nfrom rl_agg.study.cli import main\nsys.exit(main(['report', '.']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "studies need Linux or macOS" in done.stderr


def test_compare_prints_a_line_before_it_imports_what_takes_seconds(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text('{name: A, baseline: a, systems: {a: {system: "m:A"}}, environments: {X-v0: {}}, budget: {updates: 1}}')
    command = [sys.executable, "-c", WITHOUT, "compare", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == "A: 1 cell, in runs/a\n"
    assert "pip install 'rl-agg[study]'" in done.stderr


def test_a_registry_in_a_fresh_process_knows_the_names_of_all() -> None:
    script = (
        "from rl_agg.rules import register_rule\n"
        "try: register_rule('median', lambda signals: signals.returns)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "combiner 'median' comes with rl-agg; choose another name\n"
