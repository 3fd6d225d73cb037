"""Where a record comes from: versions, commit, host."""

import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import rl_agg

PACKAGES = ("rl-agg", "torch", "numpy", "gymnasium")


def provenance(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Describe what runs here.

    :param packages: Distributions of the host, see :class:`~rl_agg.study.run.runners.Runner`.
    :return: Versions of those installed, the commit of a source checkout (with ``+`` if changed), the host and its platform.
    """
    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "commit": _commit(), "host": platform.node(), "platform": platform.platform()}


@cache
def _commit() -> str | None:
    package = Path(rl_agg.__file__).parent
    head = _git(package, "rev-parse", "--short=12", "HEAD")
    # Installed into somebody else's checkout, its commit would be that project's
    if head is None or not _git(package, "ls-files", "__init__.py"):
        return None
    return f"{head}+" if _git(package, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no") else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
