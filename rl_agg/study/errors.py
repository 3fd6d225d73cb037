"""Errors that a user can correct: reported in one message, without a traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

DISTRIBUTIONS = {"yaml": "pyyaml"}
"""Of modules that have another name than their distribution."""


class StudyError(ValueError):
    """A study that cannot be run or read as it is; the message says what to change."""


class MissingExtraError(StudyError, ImportError):
    """A package is not installed; the message names the extra that brings it."""


def extra_of(module: str) -> str | None:
    """The extra of rl-agg that brings a top-level module; ``None`` if none does."""
    name = _normalized(DISTRIBUTIONS.get(module, module))
    extras = {
        found["extra"]
        for requirement in metadata.requires("rl-agg") or ()
        if (found := re.match(r"(?P<name>[\w.-]+).*extra == ['\"](?P<extra>[\w-]+)", requirement))
        and _normalized(found["name"]) == name
    }
    return min(extras, key=lambda extra: (extra != "study", extra == "all", extra), default=None)  # the one most to the point


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@contextmanager
def extras_named() -> Iterator[None]:
    """Turn a missing optional package into an error that names its extra.

    :raises MissingExtraError: where a module that an extra brings was not found.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:  # a module within an installed package is a mistake in its name
            raise
        raise MissingExtraError(f"{error.name} is not installed: pip install 'rl-agg[{extra}]'") from error
