"""Reading a study from YAML, and resolving it until every key has a value."""

import dataclasses
import math
from pathlib import Path

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.expansion import expand
from rl_agg.study.spec.hyperparams import Hyperparams, load_hyperparams
from rl_agg.study.spec.parsing import load_yaml, read
from rl_agg.study.spec.study import Budget, Environment, Quick, Study

DEFAULT_AGENTS = 8
MOST_AGENTS = 2**16
MOST_CELLS = 100_000
"""Systems times environments times seeds."""
SEEDS = 2**32
"""NumPy's limit."""


def load_study(path: str | Path, *, quick: bool = False) -> Study:
    """Read a study and resolve it.

    :param path: YAML with the keys of :class:`Study`.
    :param quick: Apply its ``quick`` overrides.
    :raises StudyError: naming the key and the value that cannot stay as they are.
    """
    path = Path(path)
    raw = load_yaml(path)
    if isinstance(raw, dict):
        raw = {key: expand(value, key) if key in ("systems", "environments") else value for key, value in raw.items()}
    return resolve(read(Study, raw, path.name), folder=path.parent, quick=quick)


def resolve(study: Study, *, folder: Path = Path(), quick: bool = False) -> Study:
    """Fill in missing keys, so that the study alone defines each cell.

    :param folder: The folder that ``hyperparams`` is relative to.
    :param quick: Apply the study's ``quick`` overrides, which win over everything.
    :raises StudyError: if an environment is left without a budget, or a number makes no sense.
    """
    overrides = Quick()
    if quick:
        if study.quick is None or study.quick == Quick():
            raise StudyError(f"{study.name} has no 'quick' overrides; write for example quick: {{budget: {{updates: 2}}}}")
        overrides = study.quick
    seeds = study.seeds if overrides.seeds is None else overrides.seeds
    _check_seeds(seeds)
    cells = (seeds if isinstance(seeds, int) else len(seeds)) * len(study.systems) * len(study.environments)
    if cells > MOST_CELLS:
        raise StudyError(
            f"{len(study.systems)} systems, {len(study.environments)} environments and these seeds are {_shown(cells)} cells; "
            f"at most {MOST_CELLS}"
        )
    environments = {
        name: _resolve_environment(name, environment, study, overrides.budget, folder)
        for name, environment in study.environments.items()
    }
    return dataclasses.replace(study, seeds=seeds, environments=environments, budget=None, hyperparams=None, quick=None)


def _resolve_environment(name: str, given: Environment, study: Study, quick: Budget | None, folder: Path) -> Environment:
    id_ = given.id or name
    zoo = load_hyperparams(folder / study.hyperparams, id_) if study.hyperparams else Hyperparams()
    num_agents = given.num_agents if given.num_agents is not None else zoo.num_agents or DEFAULT_AGENTS
    if not 1 <= num_agents <= MOST_AGENTS:
        raise StudyError(f"environments.{name}.num_agents must be from 1 to {MOST_AGENTS}, got {_shown(num_agents)}")
    if given.threshold is not None and not math.isfinite(given.threshold):
        raise StudyError(f"environments.{name}.threshold must be finite, got {given.threshold}")
    scored = given.scored_agents
    if scored is not None and (not scored or len(set(scored)) < len(scored) or not set(scored) <= set(range(num_agents))):
        raise StudyError(
            f"environments.{name}.scored_agents must be some of the agents 0 to {num_agents - 1}, each once, got {scored}"
        )
    budget = quick or given.budget or study.budget or (Budget(env_steps=zoo.env_steps) if zoo.env_steps else None)
    if budget is None:
        raise StudyError(f"environments.{name} has no budget; give the study or the environment one: {{updates: 100}}")
    return dataclasses.replace(
        given,
        id=id_,
        num_agents=num_agents,
        settings={**(zoo.settings_but_network if given.network else zoo.settings), **given.settings},
        normalize=zoo.normalize if given.normalize is None else given.normalize,
        policy=given.policy or zoo.policy,
        budget=budget,
    )


def _check_seeds(seeds: int | list[int]) -> None:
    if isinstance(seeds, int):
        if seeds < 1:
            raise StudyError(f"seeds must be at least 1, got {_shown(seeds)}")
    elif not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= SEEDS:
        raise StudyError(f"a list of seeds must hold different integers from 0 to {SEEDS - 1}, got {seeds}")


def _shown(number: int) -> str:
    """A number, or how many digits it has if these would fill a screen."""
    return str(number) if abs(number) < 10**30 else f"a number of about {int(math.log10(abs(number))) + 1} digits"
