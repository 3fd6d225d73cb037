"""What a user can mend: told in one message, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "pandas": "study",
    "plotly": "study",
    "pyarrow": "study",
    "ray": "study",
    "rich": "study",
    "tyro": "study",
    "yaml": "study",
    "stable_baselines3": "sb3",
    "sb3_contrib": "sb3",
    "Box2D": "envs",
    "gymnasium": "envs",
    "matplotlib": "study",
    "mujoco": "envs",
}
"""Which extra of rl-agg brings a module."""


class StudyError(ValueError):
    """A study that cannot be run or read as it is; the message says what to change."""


class MissingExtraError(StudyError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


@contextmanager
def extras_named() -> Iterator[None]:
    """Turn a missing optional package into an error that names its extra.

    :raises MissingExtraError: where a module of :data:`EXTRAS` was not found.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = error.name or ""
        if module not in EXTRAS:  # a module within one is a mistake in its name
            raise
        raise MissingExtraError(f"{module} is not installed: pip install 'rl-agg[{EXTRAS[module]}]'") from error
