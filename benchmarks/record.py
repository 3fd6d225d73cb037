"""Write benchmark results with the versions and the commit that made them."""

from __future__ import annotations

import csv
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def write(name: str, rows: list[dict[str, Any]], packages: list[str]) -> Path:
    """Write one table.

    :param name: ``results/<name>.csv``.
    :param rows: The first names the columns; another may leave some empty.
    :param packages: Distributions whose versions belong to the result.
    :return: The file.
    """
    RESULTS.mkdir(exist_ok=True)
    origin = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": COMMIT,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *origin])
        writer.writeheader()
        writer.writerows({**row, **origin} for row in rows)
    return path


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()


def _commit() -> str:
    # Results that the benchmark itself rewrites do not make the code another one.
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/benchmarks/results")
    return _git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


COMMIT = _commit()
"""What runs here, whatever is committed meanwhile."""
