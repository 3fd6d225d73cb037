"""A study's runner for the algorithms that a server drives in one process: what all of those have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import arguments, check_settings, import_system
from rl_agg.study.spec.study import Cell
from rl_agg.validation import unknown_choice
from rllib_agg.study.base import AlgorithmRunner, Observed, Observer

RESERVED = {"env": "environments", "env_config": "env_kwargs", "seed": "seeds"}
UNUSED = ("network", "unequal", "scored_agents", "normalize", "policy", "wrappers")
"""Keys of a study that these algorithms do not use."""

WHOLE = ("faithful", "preset")
"""Methods of a config that set all that a source sets, from its name."""


class ServerLoopRunner(AlgorithmRunner):
    """Settings are those of the config's ``training()``, ``faithful``, ``preset`` and what a subclass adds."""

    num_agents: ClassVar[str]
    """The setting that the environment's ``num_agents`` fills, unless the system has its own."""

    elsewhere: ClassVar[Mapping[str, str]]
    """Settings that are not those of ``training()``, and the config's method that takes each."""

    @abstractmethod
    def observe(self, algorithm: Any, result: Mapping[str, Any]) -> Observed | None:
        """See :data:`~rllib_agg.study.base.Observer`."""

    def observer(self, cell: Cell) -> Observer:
        """The same for every cell."""
        return self.observe

    def check_keys(self, cell: Cell) -> None:
        """Raise on settings that do not exist here."""
        check_settings(cell, RESERVED, UNUSED)
        config_class = type(import_system(cell).get_default_config())
        known = {*arguments(config_class, "training"), self.num_agents, *self.elsewhere}
        known |= {name for name in WHOLE if hasattr(config_class, name)}
        for name in {**cell.environment.settings, **cell.system.settings}:
            if name not in known:
                raise StudyError(f"{cell}: {unknown_choice(f'{config_class.__name__} setting', name, known)}")

    def validate(self, config: Any) -> None:
        """Raise if an algorithm or its environments could not be built."""
        config.validate()
        config.open_agents().close()

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """One CPU."""
        return [{"CPU": 1.0}]

    def config(self, cell: Cell) -> Any:
        """The algorithm's config."""
        config, environment = import_system(cell).get_default_config(), cell.environment
        settings = {self.num_agents: environment.num_agents, **environment.settings, **cell.system.settings}
        for name in WHOLE:
            if name in settings:
                getattr(config, name)(settings.pop(name))
        for name, method in self.elsewhere.items():
            if name in settings:
                getattr(config, method)(**{name: settings.pop(name)})
        config.update_from_dict(settings)
        config.environment(environment.id, env_config=dict(environment.env_kwargs)).debugging(seed=cell.seed)
        return config.env_runners(num_env_runners=0)
