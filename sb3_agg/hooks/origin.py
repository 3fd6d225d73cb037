"""Whose code something is."""

from __future__ import annotations

from typing import Any


def is_sb3s(item: Any) -> bool:
    """Whether SB3 or sb3-contrib defines it.

    :param item: A class or a function.
    """
    package: str = item.__module__.partition(".")[0]
    return package in ("stable_baselines3", "sb3_contrib")
