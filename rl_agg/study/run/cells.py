"""What running a cell gives, whatever framework runs it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rl_agg.study.errors import EXTRAS, StudyError
from rl_agg.study.spec.study import Cell
from rl_agg.validation import unknown_choice


@dataclass(frozen=True)
class Update:
    """One rollout and the training after it.

    :param update: Counted from 1.
    :param env_steps: So far, of all agents together.
    :param wall_time: Seconds since training began, this update's training included.
    :param mean_return: Mean over the scored agents of each one's raw episodic return in this rollout, or of its last known
        one; NaN while nobody has finished an episode.
    :param episodes: Finished in this rollout, by all agents together.
    :param agent_returns: Each agent's ``[A]``, NaN where still unknown.
    :param scalars: What else the system logged about the aggregation, by name.
    """

    update: int
    env_steps: int
    wall_time: float
    mean_return: float
    episodes: int
    agent_returns: list[float]
    scalars: dict[str, float] = field(default_factory=dict)


OnUpdate = Callable[[Update, float], None]
"""Called after each update with it and the fraction of the budget that is used up, in [0, 1]."""


class Runner(Protocol):
    """How one framework runs a cell."""

    def check(self, cell: Cell) -> None:
        """Refuse a cell that cannot start.

        :raises StudyError: naming the system, the environment and the reason.
        """

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """What it takes, for Ray: first the cell's own process, then each worker it starts."""

    def run(self, cell: Cell, on_update: OnUpdate) -> list[Update]:
        """Train, on one thread, with all randomness from the cell's seed."""


RUNNERS = {
    "stable_baselines3.common.base_class:BaseAlgorithm": "sb3_agg.study:Sb3Runner",
    "rllib_agg.server_loop.population:EpisodicAlgorithm": "rllib_agg.study.population:EpisodicRunner",
    "rllib_agg.qmix.algorithm:QMIX": "rllib_agg.study.teams:TeamRunner",
    "ray.rllib.algorithms.algorithm:Algorithm": "rllib_agg.study.runner:RllibRunner",
}
"""Who runs the classes that descend from one; the first that fits."""


def runner_for(cell: Cell) -> Runner:
    """Find who runs a cell's system.

    :raises StudyError: if the import path leads nowhere, or to a class that nobody here can run.
    """
    cls = import_system(cell)
    ancestors = {f"{base.__module__}:{base.__name__}" for base in cls.__mro__}
    for ancestor, path in RUNNERS.items():
        if ancestor in ancestors:
            runner: Runner = _import(path)()
            return runner
    raise StudyError(f"system {cell.system_name!r}: {cell.system.system} is not an algorithm of Stable-Baselines3 or RLlib")


def import_system(cell: Cell) -> type[Any]:
    """Import the class of a cell's system.

    :raises StudyError: if the module or the class does not exist, or it is not a class.
    """
    return _import_class(cell.system.system, f"system {cell.system_name!r}")


def refuse_what_the_study_sets(cell: Cell, set_by_study: Mapping[str, str], unused: Collection[str]) -> None:
    """Refuse settings that would be said twice, or be ignored.

    :param set_by_study: Settings that are not the cell's to make, and the study's key that does.
    :param unused: What the system's runner has no use for, of what a study may say of an environment.
    :raises StudyError: naming it.
    """
    name = import_system(cell).__name__
    for key in unused:
        said = (getattr(cell.environment, key), getattr(cell.system, key, None))
        if any(value not in (None, [], {}, False) for value in said):
            raise StudyError(f"{cell}: {name} does not use {key!r}; leave it out")
    for setting, key in set_by_study.items():
        if setting in {**cell.environment.settings, **cell.system.settings}:
            raise StudyError(f"{cell}: {setting!r} is not a setting here; the study's own {key!r} says it")


def arguments(cls: type[Any], method: str) -> set[str]:
    """Names that a method takes, its parents' included as long as each passes on what it does not know."""
    names: set[str] = set()
    for base in cls.__mro__:
        if method not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)[method]).parameters.values())[1:]
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {parameter.name for parameter in parameters if parameter.kind not in variadic}
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {name for name in names if not name.startswith("_")}


def wrapped(cell: Cell, env: Any) -> Any:
    """Put the cell's wrappers around an environment.

    :raises StudyError: if an import path leads nowhere, or not to a class.
    """
    for wrapper in cell.environment.wrappers:
        env = _import_class(wrapper.wrapper, f"environments.{cell.environment_name}.wrappers")(env, **wrapper.settings)
    return env


def find_modules_in(folders: Collection[str]) -> None:
    """Let this process import what another can: Ray's workers have a path of their own, and studies name the user's modules.

    :param folders: The other's ``sys.path``.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def _import_class(path: str, where: str) -> type[Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
        found = getattr(module, name, None)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing in EXTRAS:
            raise  # told with the extra that brings it
        there_is = "there is no module" if f"{module_name}.".startswith(f"{missing}.") else f"{module_name} needs a module"
        raise StudyError(f"{where}: {there_is} {missing!r} ({path})") from error
    except (Exception, SystemExit) as error:  # whatever the user's own module raises, or even ends
        raise StudyError(f"{where}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    if found is None:
        public = [key for key in vars(module) if not key.startswith("_")]
        raise StudyError(f"{where}: {module_name} has an {unknown_choice('name', name, public)}")
    if not inspect.isclass(found):
        raise StudyError(f"{where}: {path} is not a class")
    return found


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
