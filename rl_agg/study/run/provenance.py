"""Where a record comes from: versions, commit, host."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import rl_agg

PACKAGES = ("rl-agg", "torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib", "ray", "mujoco", "box2d")


@cache
def provenance() -> dict[str, Any]:
    """Tell what ran this: versions of what is installed, commit of a source checkout (with ``+`` if changed), host."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "commit": _commit(), "host": platform.node(), "platform": platform.platform()}


def _commit() -> str | None:
    package = Path(rl_agg.__file__).parent
    head = _git(package, "rev-parse", "--short=12", "HEAD")
    # Installed into somebody else's checkout, its commit would be that project's
    if head is None or not _git(package, "ls-files", "__init__.py"):
        return None
    return f"{head}+" if _git(package, "status", "--porcelain", "--untracked-files=no") else head


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
