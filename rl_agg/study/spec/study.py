"""The definition of a study: systems x environments x seeds x budget."""

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.expansion import MATRIX
from rl_agg.validation import unknown_choice

ALL_ENVIRONMENTS = "All environments"
"""What a report calls all of them together; no environment may have this name."""


LARGEST_BUDGET = 10**15
"""In any unit."""


@dataclass(frozen=True)
class Budget:
    """How long a cell trains; exactly one of the three.

    :param updates: Rollouts, each followed by training.
    :param env_steps: Environment steps of all agents together; the rollout that reaches it is the last.
    :param seconds: Of wall time, from the first step on; the update during which they run out is the last.
    """

    updates: int | None = None
    env_steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.updates, self.env_steps, self.seconds) if value is not None]
        if len(given) != 1:
            raise StudyError(f"a budget is one of 'updates', 'env_steps' and 'seconds', got {_given(self)}")
        if not 0 < given[0] < math.inf:
            raise StudyError(f"a budget must be above 0 and finite, got {_given(self)}")
        if given[0] > LARGEST_BUDGET:
            raise StudyError(f"a budget must be at most {LARGEST_BUDGET:.0e}, got more")
        if self.seconds is not None:
            object.__setattr__(self, "seconds", float(self.seconds))  # as it is read again, or its cells would be others

    def used(self, updates: int, env_steps: int, seconds: float) -> float:
        """The fraction of it that these have used up, in [0, 1]."""
        if self.updates is not None:
            return min(1.0, updates / self.updates)
        if self.env_steps is not None:
            return min(1.0, env_steps / self.env_steps)
        assert self.seconds is not None  # a budget is one of them
        return min(1.0, seconds / self.seconds)


@dataclass(frozen=True)
class Wrapper:
    """A wrapper of an environment.

    :param wrapper: Import path ``module:Class``.
    :param settings: Arguments of its constructor, after the environment.
    """

    wrapper: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_path("wrapper", self.wrapper)


@dataclass(frozen=True)
class System:
    """An algorithm to compare.

    :param system: Import path ``module:Class``.
    :param settings: Constructor arguments; they win over the environment's.
    :param policy: Policy name, where the class needs one of its own (``MlpLstmPolicy``).
    """

    system: str
    settings: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    expanded: ClassVar = (MATRIX,)

    def __post_init__(self) -> None:
        _check_path("system", self.system)


@dataclass(frozen=True)
class Environment:
    """A task, and the settings that all systems share on it.

    :param id: Gymnasium's id; the entry's name unless given, so that one task can come twice with different settings.
    :param num_agents: A, sub-environments.
    :param network: ``small``, ``medium`` or ``large``, see :data:`rl_agg.network_sizes.HIDDEN_LAYERS`.
    :param threshold: Return that counts as solved, in the environment's own units.
    :param settings: Constructor arguments of the systems.
    :param env_kwargs: Arguments of ``gymnasium.make``.
    :param wrappers: Of each sub-environment, the first innermost.
    :param unequal: Disturbances and the agents that they affect, see :class:`rl_agg.envs.disturbances.Disturbance`.
    :param scored_agents: The agents whose mean return is the system's; all agents unless given.
    :param normalize: Whether observations and rewards are normalized, or the arguments of the host's wrapper for that.
    :param policy: Policy name, where the host has such names.
    :param budget: Instead of the study's.
    """

    id: str | None = None
    num_agents: int | None = None
    network: str | None = None
    threshold: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: list[Wrapper] = field(default_factory=list)
    unequal: list[dict[str, Any]] = field(default_factory=list)
    scored_agents: list[int] | None = None
    normalize: bool | dict[str, Any] | None = None
    policy: str | None = None
    budget: Budget | None = None
    expanded: ClassVar = (MATRIX,)


@dataclass(frozen=True)
class Quick:
    """Overrides of ``--quick``."""

    budget: Budget | None = None
    seeds: int | list[int] | None = None


@dataclass(frozen=True)
class Study:
    """A study. As read from a file, optional keys may be missing; :func:`load_study` returns it resolved.

    :param name: Title of the report.
    :param baseline: The system that is 100 %.
    :param seeds: How many (0, 1, ...), or which.
    :param budget: Of every environment that has none of its own.
    :param hyperparams: A file in RL Baselines3 Zoo's format, relative to the spec, whose own keys win.
    :param quick: Overrides for ``--quick``.
    :param end_share: The last share of the updates, over which the end return is averaged.
    """

    name: str
    baseline: str
    systems: dict[str, System]
    environments: dict[str, Environment]
    seeds: int | list[int] = 1
    budget: Budget | None = None
    hyperparams: str | None = None
    quick: Quick | None = None
    end_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise StudyError(f"a study needs a name, got {self.name!r}")
        for kind in ("systems", "environments"):
            if not getattr(self, kind):
                raise StudyError(f"a study needs at least one of its {kind}")
        if ALL_ENVIRONMENTS in self.environments:
            raise StudyError(
                f"no environment can be called {ALL_ENVIRONMENTS!r}, the report's name for all of them; rename it"
            )
        if self.baseline not in self.systems:
            raise StudyError(str(unknown_choice("baseline", self.baseline, self.systems)))
        if not 0 < self.end_share <= 1:
            raise StudyError(f"end_share must be in (0, 1], got {self.end_share}")

    @property
    def cells(self) -> "list[Cell]":
        """One for each system, environment and seed; seed by seed, so that a study cut short compares like with like."""
        return [
            Cell(system_name, environment_name, system, environment, seed)
            for seed in self.seed_list
            for environment_name, environment in self.environments.items()
            for system_name, system in self.systems.items()
        ]

    @property
    def seed_list(self) -> list[int]:
        """The seeds, also where only their number is given."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def key(self) -> str:
        """Hash of the names and of everything that affects the records: not of thresholds, the title or the baseline."""
        return _hash(sorted(cell.key for cell in self.cells))

    def to_mapping(self) -> dict[str, Any]:
        """As it would be written in YAML, without defaults."""
        mapping: dict[str, Any] = _trimmed(self)
        return mapping


@dataclass(frozen=True)
class Cell:
    """One run: a system on an environment with a seed."""

    system_name: str
    environment_name: str
    system: System
    environment: Environment
    seed: int

    @property
    def definition(self) -> dict[str, Any]:
        """Everything that affects this run's records."""
        return {"system": decisive(self.system), "environment": decisive(self.environment), "seed": self.seed}

    @cached_property
    def key(self) -> str:
        """Hash of the names and the definition."""
        return _hash([self.system_name, self.environment_name, self.definition])

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def id(self) -> str:
        """A readable file name, made unique by the hash."""
        names = (self.system_name, self.environment_name, str(self.seed))
        readable = "--".join(re.sub(r"[^A-Za-z0-9._-]", "_", name) for name in names)
        return f"{readable[:120]}--{self.key[:10]}"

    def __str__(self) -> str:
        return f"{self.system_name} on {self.environment_name}, seed {self.seed}"

    @property
    def budget(self) -> Budget:
        """How long it trains."""
        if self.environment.budget is None:
            raise StudyError(f"{self} has no budget; load_study() and resolve() give every environment one")
        return self.environment.budget


def fingerprint(entry: System | Environment) -> str:
    """Hash of what affects the records of a system's or an environment's runs, which a threshold does not."""
    return _hash(decisive(entry))


def decisive(entry: System | Environment) -> Any:
    """What affects the records of its runs, as a mapping without defaults."""
    return _trimmed(dataclasses.replace(entry, threshold=None) if isinstance(entry, Environment) else entry)


def _trimmed(value: Any) -> Any:
    """Dataclasses as mappings without their defaults; plain values as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((item, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {item.name: _trimmed(inner) for item, inner in pairs if not _is_default(item, inner)}
    if isinstance(value, dict):
        return {key: _trimmed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_trimmed(inner) for inner in value]
    return value


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default_factory is not dataclasses.MISSING:
        return bool(value == item.default_factory())
    return item.default is not dataclasses.MISSING and bool(value == item.default)


def _check_path(kind: str, path: str) -> None:
    module, _, name = path.partition(":")
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise StudyError(f"a {kind} is an import path 'module:Class', got {path!r}")


def _given(budget: Budget) -> str:
    given = {name: value for name, value in dataclasses.asdict(budget).items() if value is not None}
    return str(given or "none of them")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
