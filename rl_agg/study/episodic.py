"""Running a cell with one of RLlib's algorithms whose agents run an episode each: ES, DQL, EBCDQL, DAVIA."""

from __future__ import annotations

import shutil
import time
from typing import Any

import numpy as np
import torch

from rl_agg.study.cells import OnUpdate, Update, import_system
from rl_agg.study.errors import StudyError
from rl_agg.study.spec import Budget, Cell
from rllib_agg.episodic import EpisodicAlgorithm

SET_BY_STUDY = {"env": "environments", "seed": "seeds"}
UNUSED = ("network", "unequal", "scored_agents", "normalize", "policy", "wrappers")
"""What a study may say of an environment that these algorithms have no use for."""

ELSEWHERE = {"model_config": "rl_module", "explore": "env_runners"}
"""Settings that are not those of ``training()``, and the method that takes them."""


class EpisodicRunner:
    """Runs them in the cell's own process; see :class:`~rl_agg.study.cells.Runner`.

    Settings are those of the config's ``training()``, and ``model_config``, ``explore`` and ``faithful``. The population is
    the environment's ``num_agents``, unless the system sets one.
    """

    def check(self, cell: Cell) -> None:
        """Refuse bad settings.

        :raises StudyError: naming the system, the environment and the reason.
        """
        cls = import_system(cell)
        for name in UNUSED:
            if getattr(cell.environment, name) not in (None, [], False):
                raise StudyError(f"{cell}: {cls.__name__} does not use {name!r}; leave it out")
        for name, key in SET_BY_STUDY.items():
            if name in {**cell.environment.settings, **cell.system.settings}:
                raise StudyError(f"{cell}: {name!r} is not a setting here; the study's own {key!r} says it")
        try:
            config = _config(cell)
            config.validate()
            config.open_agents().close()
        except Exception as error:  # whatever a config or an environment raises, it is about this cell's settings
            raise StudyError(f"{cell} cannot be built: {type(error).__name__}: {error}") from error

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """One CPU."""
        return [{"CPU": 1.0}]

    def run(self, cell: Cell, on_update: OnUpdate) -> list[Update]:
        """Train for the cell's budget."""
        torch.set_num_threads(1)
        updates: list[Update] = []
        algorithm = _config(cell).build_algo()
        start = time.perf_counter()
        try:
            while _fraction(cell.budget, updates) < 1:
                updates.append(_update(algorithm, time.perf_counter() - start, len(updates) + 1))
                on_update(updates[-1], _fraction(cell.budget, updates))
        finally:
            algorithm.stop()
            shutil.rmtree(algorithm.logdir, ignore_errors=True)  # an empty folder in the user's home for each cell
        return updates


def _config(cell: Cell) -> Any:
    environment = cell.environment
    config = import_system(cell).get_default_config()
    settings = {"population": environment.num_agents, **environment.settings, **cell.system.settings}
    if "faithful" in settings:
        config.faithful(settings.pop("faithful"))
    for name, method in ELSEWHERE.items():
        if name in settings:
            getattr(config, method)(**{name: settings.pop(name)})
    config.update_from_dict(settings)
    config.environment(environment.id, env_config=dict(environment.env_kwargs)).debugging(seed=cell.seed)
    return config.env_runners(num_env_runners=0)


def _fraction(budget: Budget, updates: list[Update]) -> float:
    """How much of the budget is used up, in [0, 1]."""
    return budget.used(len(updates), updates[-1].env_steps, updates[-1].wall_time) if updates else 0.0


def _update(algorithm: EpisodicAlgorithm, before: float, number: int) -> Update:
    began = time.perf_counter()
    result = algorithm.train()  # type: ignore[no-untyped-call]
    report = algorithm.report
    agents = report.returns[report.agents < algorithm.config.population]
    centre = result["env_runners"].get("centre", {}).get("episode_return_mean", np.nan)
    logged = result["learners"]["default_policy"]["agg"]
    return Update(
        update=number,
        env_steps=int(result["num_env_steps_sampled_lifetime"]),
        wall_time=before + time.perf_counter() - began,
        mean_return=float(np.nanmean(agents)) if np.isfinite(agents).any() else float("nan"),
        episodes=len(agents),
        agent_returns=agents.tolist(),
        scalars={"agg/centre_return": float(centre), **{f"agg/{name}": float(value) for name, value in logged.items()}},
    )
