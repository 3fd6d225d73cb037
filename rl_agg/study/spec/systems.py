"""The systems that hosts list, by their choice on each axis: gate, codec, rule, payload and schedule."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from rl_agg.study.spec.parsing import load_yaml, read
from rl_agg.study.spec.study import System

RUNNERS = "rl_agg.study.runners"
"""The group of entry points by which packages register their runners, see :mod:`rl_agg.study.run.runners`."""
FILE = "systems.yaml"
"""In a package that registers a runner: a :class:`Catalogue` of its systems."""


@dataclass(frozen=True, kw_only=True)
class KnownSystem(System):
    """A system of a paper, as an entry of a study, and its choice on each axis."""

    gate: str
    codec: str
    rule: str
    payload: str
    schedule: str
    paper: str


@dataclass(frozen=True)
class Catalogue:
    """The systems that one host lists.

    :param systems: By name.
    :param note: What else a user should know about them.
    """

    systems: dict[str, KnownSystem]
    note: str = ""


def catalogues() -> list[Catalogue]:
    """Read the catalogue of each package that registers a runner.

    The packages are found, not imported: importing may take seconds, or an extra that is not installed.
    """
    packages = dict.fromkeys(runner.module.partition(".")[0] for runner in entry_points(group=RUNNERS))
    return [read(Catalogue, load_yaml(file), str(file)) for package in packages for file in _files(package)]


def _files(package: str) -> Iterable[Path]:
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return (file for folder in folders if (file := Path(folder, FILE)).is_file())
