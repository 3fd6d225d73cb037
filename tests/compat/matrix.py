"""Tests in throw-away environments with other versions of what rl-agg is added to, and a table of the outcome.

    python tests/compat/matrix.py [CELL ...]

Each cell is a virtual environment under ``.compat``, which is deleted afterwards; its pip's output and its tests' are kept
there as ``CELL.log``. The table is printed, and written to ``docs/versions_table.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".compat"
TABLE = ROOT / "docs" / "versions_table.md"
COMPANIONS_TABLE = ROOT / "docs" / "companions_table.md"
COMPANIONS = ("wandb", "optuna", "mlflow", "ale-py", "imitation", "supersuit", "opencv-python", "gymnasium[atari]")
"""What Stable-Baselines3's users have installed as well."""

SHOWN = ("stable-baselines3", "gymnasium", "ray", "torch", "numpy", "scipy")

SB3 = [
    "test_gradients",
    "test_stock",
    "test_save_load",
    "test_stock_files",
    "test_closed_form",
    "test_local_models",
    "test_adoption",
]
RLLIB = ["test_stock_equality", "test_settings", "test_restore", "test_closed_form", "test_adoption", "test_qmix", "test_es"]
CORE = ["test_weighting", "test_statistics", "test_combiners", "test_exchange", "test_evolution", "test_population_evaluation"]
STUDY = ["test_sb3", "test_report", "test_reliability"]


@dataclass(frozen=True)
class Cell:
    """One environment.

    :param extras: Of rl-agg.
    :param pins: Versions; everything else is the newest that fits.
    :param files: Of tests.
    """

    extras: str
    pins: tuple[str, ...]
    files: tuple[str, ...]


def _tests(**folders: list[str]) -> tuple[str, ...]:
    return tuple(f"tests/{folder}/{name}.py" for folder, names in folders.items() for name in names)


CELLS = {
    "oldest SB3": Cell(
        "sb3,torchjd",
        ("stable-baselines3==2.3.0", "sb3-contrib==2.3.0", "gymnasium==0.29.1", "numpy==1.26.4", "scipy==1.11.4"),
        _tests(core=CORE[:-1], sb3=SB3),  # those of the last one are written with wrappers of Gymnasium 1
    ),
    "SB3 2.6": Cell(
        "sb3,torchjd,envs,study",
        ("stable-baselines3==2.6.0", "sb3-contrib==2.6.0", "gymnasium==1.1.1", "numpy==2.1.3", "scipy==1.14.1"),
        _tests(core=CORE, sb3=SB3, study=STUDY),
    ),
    "oldest Ray": Cell("rllib,study", ("ray==2.56.1", "numpy==2.1.3", "scipy==1.14.1"), _tests(rllib=RLLIB)),
    "newest": Cell("all,torchjd", (), _tests(core=CORE, sb3=SB3, rllib=RLLIB, study=STUDY)),
}
TORCH = "torch==2.13.0"
"""Everywhere: other builds without CUDA are not to be had on every index."""


def run(cell: Cell, name: str) -> dict[str, str]:
    """Build the environment, run the tests, and delete it.

    :return: Versions, and how many tests passed.
    """
    stem = re.sub(r"\W+", "_", name)
    place, log = FOLDER / stem, FOLDER / f"{stem}.log"
    FOLDER.mkdir(exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    python = place / "bin" / "python"
    tests = ["pytest", "-q", "-p", "no:cacheprovider", "--tb=line", "--maxfail=20"]
    with open(log, "w", encoding="utf-8") as out:

        def call(*command: str | Path) -> int:
            return subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, check=False).returncode

        dev = ["pytest>=9", "hypothesis>=6.100", "sybil>=10", "tensorboard", "msgpack-numpy"]
        failed = call(sys.executable, "-m", "venv", place) or call(
            *(python, "-m", "pip", "install", "-qq", "--editable", f".[{cell.extras}]", TORCH, *cell.pins, *dev)
        )
        outcome = "not installed"
        if not failed:
            call(python, "-m", *tests, *cell.files)
            out.flush()
            outcome = log.read_text(encoding="utf-8").strip().splitlines()[-1]
    versions = {} if failed else _versions(python)
    shutil.rmtree(place, ignore_errors=True)
    return {**versions, "tests": outcome}


def _versions(python: Path) -> dict[str, str]:
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    found = {_name(each["name"]): each["version"] for each in json.loads(listed.stdout)}
    return {name: found.get(name, "-") for name in SHOWN}


def _name(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def write_companions() -> None:
    """Let pip resolve rl-agg[sb3] together with packages that SB3's users have, and write what came out."""
    lines = ["| together with | resolves to |", "|---|---|"]
    for package in COMPANIONS:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
        done = subprocess.run([*command, ".[sb3]", TORCH, package], cwd=ROOT, capture_output=True, text=True, check=False)
        outcome = "does not"
        if done.returncode == 0:
            found = {
                _name(item["metadata"]["name"]): item["metadata"]["version"] for item in json.loads(done.stdout)["install"]
            }
            shown = dict.fromkeys((_name(re.split(r"[\[=<>]", package)[0]), "stable-baselines3", "gymnasium", "numpy"))
            outcome = ", ".join(f"{each} {found[each]}" for each in shown)
        lines.append(f"| {package} | {outcome} |")
        print(lines[-1], flush=True)
    COMPANIONS_TABLE.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run the cells that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--companions", action="store_true", help="only resolve rl-agg[sb3] together with other packages")
    options = parser.parse_args()
    if options.companions:
        write_companions()
        return
    if unknown := set(options.cells) - CELLS.keys():
        parser.error(f"no cell {', '.join(sorted(unknown))}; choose from {', '.join(CELLS)}")
    rows = {line.split("|")[1].strip(): line for line in TABLE.read_text().splitlines()[2:]}
    for name in options.cells or list(CELLS):
        found = run(CELLS[name], name)
        shown = [f"{sys.version_info[0]}.{sys.version_info[1]}", *(found.get(each, "-") for each in SHOWN), found["tests"]]
        rows[name] = f"| {name} | {' | '.join(shown)} |"
        print(rows[name], flush=True)
        head = f"| | Python | {' | '.join(SHOWN)} | tests |", "|---" * (len(SHOWN) + 3) + "|"
        TABLE.write_text("\n".join([*head, *(rows[each] for each in CELLS if each in rows)]) + "\n")


if __name__ == "__main__":
    main()
