"""What a study is: systems x environments x seeds x budget, read from YAML and resolved until nothing is left open."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rl_agg.study.errors import StudyError, unknown
from rl_agg.study.hyperparams import Hyperparams, load_hyperparams
from rl_agg.study.parsing import load_yaml, read

DEFAULT_AGENTS = 8
DEFAULT_POLICY = "MlpPolicy"


@dataclass(frozen=True)
class Budget:
    """How long a cell trains; exactly one of the two.

    :param updates: Rollouts, each followed by training.
    :param env_steps: Environment steps of all agents together; the rollout that reaches it is the last.
    """

    updates: int | None = None
    env_steps: int | None = None

    def __post_init__(self) -> None:
        if (self.updates is None) == (self.env_steps is None):
            raise StudyError(f"a budget is either 'updates' or 'env_steps', got {_given(self)}")
        if (self.updates or self.env_steps or 0) < 1:
            raise StudyError(f"a budget must be at least 1, got {_given(self)}")


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

    def __post_init__(self) -> None:
        module, _, name = self.system.partition(":")
        if not module or not name:
            raise StudyError(f"a system is an import path 'module:Class', got {self.system!r}")


@dataclass(frozen=True)
class Environment:
    """A task, and the settings that all systems share there.

    :param id: Gymnasium's id; the entry's name unless given, so that one task can come twice with different settings.
    :param num_agents: A, sub-environments.
    :param network: ``small``, ``medium`` or ``large``, see :func:`sb3_agg.network`.
    :param threshold: Return that counts as reached, in the environment's own units.
    :param settings: Constructor arguments of the systems.
    :param env_kwargs: Arguments of ``gymnasium.make``.
    :param unequal: What is different for which agents, see :class:`rl_agg.envs.unequal.Disturbance`.
    :param scored_agents: Whose returns are the system's; all agents' unless given. Where some are broken, the others.
    :param normalize: ``True``, or arguments of ``VecNormalize``; ``False`` also where ``hyperparams`` says otherwise.
    :param policy: Policy name.
    :param budget: Instead of the study's.
    """

    id: str | None = None
    num_agents: int | None = None
    network: str | None = None
    threshold: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    unequal: list[dict[str, Any]] = field(default_factory=list)
    scored_agents: list[int] | None = None
    normalize: bool | dict[str, Any] | None = None
    policy: str | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Quick:
    """What ``--quick`` changes."""

    budget: Budget | None = None
    seeds: int | list[int] | None = None


@dataclass(frozen=True)
class Study:
    """A study. As read from a file some of it may be left open; :func:`load_study` gives it resolved.

    :param name: Title of the report.
    :param baseline: The system that is 100 %.
    :param seeds: How many (0, 1, ...), or which.
    :param budget: Of every environment that has none of its own.
    :param hyperparams: A file in RL Baselines3 Zoo's format, relative to the spec; gives way to what the spec itself says.
    :param quick: Overrides for ``--quick``.
    :param end_share: Which last share of the updates the end return is taken over.
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
        for kind in ("systems", "environments"):
            if not getattr(self, kind):
                raise StudyError(f"a study needs at least one of its {kind}")
        if self.baseline not in self.systems:
            raise StudyError(unknown("baseline", self.baseline, self.systems))
        if not 0 < self.end_share <= 1:
            raise StudyError(f"end_share must be in (0, 1], got {self.end_share}")

    @property
    def cells(self) -> list[Cell]:
        """One for each system, environment and seed; seed by seed, so that a study cut short compares like with like."""
        return [
            Cell(system_name, environment_name, system, environment, seed)
            for seed in self.seed_list
            for environment_name, environment in self.environments.items()
            for system_name, system in self.systems.items()
        ]

    @property
    def seed_list(self) -> list[int]:
        """Which seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def key(self) -> str:
        """Hash of all that decides the records; names, thresholds and the baseline do not."""
        return _hash(sorted(cell.key for cell in self.cells))

    def to_mapping(self) -> dict[str, Any]:
        """As it would be written in YAML, without what is left open or at its default."""
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
        """All that decides this run's records."""
        environment = dataclasses.replace(self.environment, threshold=None)
        return {"system": _trimmed(self.system), "environment": _trimmed(environment), "seed": self.seed}

    @cached_property
    def key(self) -> str:
        """Hash of the names and the definition."""
        return _hash([self.system_name, self.environment_name, self.definition])

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def id(self) -> str:
        """A file name: readable, and unique by the hash."""
        names = (self.system_name, self.environment_name, str(self.seed))
        readable = "--".join("".join(c if c.isalnum() or c in "._-" else "_" for c in name) for name in names)
        return f"{readable[:120]}--{self.key[:10]}"

    def __str__(self) -> str:
        return f"{self.system_name} on {self.environment_name}, seed {self.seed}"

    @property
    def policy(self) -> str:
        """Policy name: the system's, else the environment's."""
        return self.system.policy or self.environment.policy or DEFAULT_POLICY

    @property
    def budget(self) -> Budget:
        """How long it trains."""
        if self.environment.budget is None:
            raise StudyError(f"{self} has no budget; load_study() and resolve() give every environment one")
        return self.environment.budget


def load_study(path: Path, *, quick: bool = False) -> Study:
    """Read a study and resolve it.

    :param path: YAML with the keys of :class:`Study`.
    :param quick: Apply its ``quick`` overrides.
    :raises StudyError: naming the key and the value that cannot stay as they are.
    """
    return resolve(read(Study, load_yaml(path), path.name), folder=path.parent, quick=quick)


def resolve(study: Study, *, folder: Path = Path(), quick: bool = False) -> Study:
    """Fill in what is left open, so that the study says by itself what each cell does.

    :param folder: What ``hyperparams`` is relative to.
    :param quick: Apply the study's ``quick`` overrides, which win over everything.
    :raises StudyError: if an environment is left without a budget, or a number makes no sense.
    """
    overrides = Quick()
    if quick:
        if study.quick is None:
            raise StudyError(f"{study.name} has no 'quick' overrides; write for example quick: {{budget: {{updates: 2}}}}")
        overrides = study.quick
    seeds = study.seeds if overrides.seeds is None else overrides.seeds
    _check_seeds(seeds)
    environments = {
        name: _resolve_environment(name, environment, study, overrides.budget, folder)
        for name, environment in study.environments.items()
    }
    return dataclasses.replace(study, seeds=seeds, environments=environments, budget=None, hyperparams=None, quick=None)


def _resolve_environment(name: str, given: Environment, study: Study, quick: Budget | None, folder: Path) -> Environment:
    id_ = given.id or name
    zoo = load_hyperparams(folder / study.hyperparams, id_) if study.hyperparams else Hyperparams()
    num_agents = given.num_agents if given.num_agents is not None else zoo.num_agents or DEFAULT_AGENTS
    if num_agents < 1:
        raise StudyError(f"environments.{name}.num_agents must be at least 1, got {num_agents}")
    scored = given.scored_agents
    if (scored is not None and not set(scored) <= set(range(num_agents))) or scored == []:
        raise StudyError(f"environments.{name}.scored_agents must be some of the agents 0 to {num_agents - 1}, got {scored}")
    budget = quick or given.budget or study.budget or (Budget(env_steps=zoo.env_steps) if zoo.env_steps else None)
    if budget is None:
        raise StudyError(f"environments.{name} has no budget; give the study or the environment one: {{updates: 100}}")
    return dataclasses.replace(
        given,
        id=id_,
        num_agents=num_agents,
        settings={**zoo.settings, **given.settings},
        normalize=zoo.normalize if given.normalize is None else given.normalize,
        policy=given.policy or zoo.policy,
        budget=budget,
    )


def _check_seeds(seeds: int | list[int]) -> None:
    if isinstance(seeds, int):
        if seeds < 1:
            raise StudyError(f"seeds must be at least 1, got {seeds}")
    elif not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise StudyError(f"a list of seeds must hold different integers >= 0, got {seeds}")


def _trimmed(value: Any) -> Any:
    """Dataclasses as mappings without their defaults; plain values as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((item, getattr(value, item.name)) for item in dataclasses.fields(value))
        return {item.name: _trimmed(inner) for item, inner in pairs if not _is_default(item, inner)}
    if isinstance(value, dict):
        return {key: _trimmed(inner) for key, inner in value.items()}
    return value


def _is_default(item: dataclasses.Field[Any], value: Any) -> bool:
    if item.default_factory is not dataclasses.MISSING:
        return bool(value == item.default_factory())
    return item.default is not dataclasses.MISSING and bool(value == item.default)


def _given(budget: Budget) -> str:
    given = {name: value for name, value in dataclasses.asdict(budget).items() if value is not None}
    return str(given or "none of them")


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
