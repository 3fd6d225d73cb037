"""Running a cell with one of RLlib's algorithms that a centre of its own drives: what all of those have in common."""

from __future__ import annotations

import shutil
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import OnUpdate, Update, arguments, import_system, refuse_what_the_study_sets
from rl_agg.study.spec.study import Cell
from rl_agg.validation import unknown_choice

SET_BY_STUDY = {"env": "environments", "env_config": "env_kwargs", "seed": "seeds"}
UNUSED = ("network", "unequal", "scored_agents", "normalize", "policy", "wrappers")
"""What a study may say of an environment that these algorithms have no use for."""

STEPS = "num_env_steps_sampled_lifetime"


@dataclass(frozen=True, slots=True)
class Seen:
    """What an update brought.

    :param mean_return: NaN if no episode was sound.
    :param episodes: How many.
    :param agent_returns: Each agent's.
    :param scalars: What else there is to record, by name.
    """

    mean_return: float
    episodes: int
    agent_returns: list[float]
    scalars: dict[str, float]


class Trains(Protocol):
    """An algorithm."""

    logdir: str

    def train(self) -> dict[str, Any]:
        """One iteration."""

    def stop(self) -> None:
        """Stop its workers."""


class CentralRunner:
    """Runs such algorithms in the cell's own process; see :class:`~rl_agg.study.run.cells.Runner`.

    Settings are those of the config's ``training()``, ``model_config`` and ``faithful``, and those that a subclass says where
    to find.
    """

    num_agents: ClassVar[str]
    """The setting that the environment's ``num_agents`` are, unless the system has its own."""

    elsewhere: ClassVar[Mapping[str, str]]
    """Settings that are not those of ``training()``, and the method that takes them."""

    @abstractmethod
    def look(self, algorithm: Any, result: Mapping[str, Any]) -> Seen | None:
        """Read what ``train()`` brought; ``None``: not yet an update.

        :param result: Of ``train()``.
        """

    def check(self, cell: Cell) -> None:
        """Refuse bad settings.

        :raises StudyError: naming the system, the environment and the reason.
        """
        refuse_what_the_study_sets(cell, SET_BY_STUDY, UNUSED)
        config_class = type(import_system(cell).get_default_config())
        known = {*arguments(config_class, "training"), self.num_agents, *self.elsewhere, "faithful"}
        for name in {**cell.environment.settings, **cell.system.settings}:
            if name not in known:
                raise StudyError(f"{cell}: {unknown_choice(f'{config_class.__name__} setting', name, known)}")
        try:
            config = self._config(cell)
            config.validate()
            config.open_agents().close()
        except (Exception, SystemExit) as error:  # whatever a config or an environment raises, it is about its settings
            raise StudyError(f"{cell} cannot be built: {type(error).__name__}: {error}") from error

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """One CPU."""
        return [{"CPU": 1.0}]

    def run(self, cell: Cell, on_update: OnUpdate) -> list[Update]:
        """Train for the cell's budget."""
        torch.set_num_threads(1)
        updates: list[Update] = []
        algorithm: Trains = self._config(cell).build_algo()
        start, fraction = time.perf_counter(), 0.0
        try:
            while fraction < 1:
                result = algorithm.train()
                seen = self.look(algorithm, result)
                if seen is not None:
                    updates.append(_update(seen, len(updates) + 1, int(result[STEPS]), time.perf_counter() - start))
                    fraction = cell.budget.used(len(updates), updates[-1].env_steps, updates[-1].wall_time)
                    on_update(updates[-1], fraction)
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # an empty folder in the user's home for each cell
        return updates

    def _config(self, cell: Cell) -> Any:
        config, environment = import_system(cell).get_default_config(), cell.environment
        settings = {self.num_agents: environment.num_agents, **environment.settings, **cell.system.settings}
        if "faithful" in settings:
            config.faithful(settings.pop("faithful"))
        for name, method in self.elsewhere.items():
            if name in settings:
                getattr(config, method)(**{name: settings.pop(name)})
        config.update_from_dict(settings)
        config.environment(environment.id, env_config=dict(environment.env_kwargs)).debugging(seed=cell.seed)
        return config.env_runners(num_env_runners=0)


def _update(seen: Seen, number: int, env_steps: int, wall_time: float) -> Update:
    return Update(number, env_steps, wall_time, seen.mean_return, seen.episodes, seen.agent_returns, seen.scalars)
