"""A config that refuses what it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.result import STDERR_FILE, STDOUT_FILE

from rl_agg.validation import check_number, unknown_choice
from rllib_agg.aggregation._compat import UNSET

TUNE_NOTES = (STDERR_FILE, STDOUT_FILE)
"""What Ray Tune writes into every trial's config for itself."""


class StrictConfig(AlgorithmConfig):
    """Refuses settings that it does not know; RLlib keeps them and never reads them."""

    callbacks_class: Any
    grad_clip: Any
    lr: Any
    env_runner_cls: Any
    batch_mode: Any

    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """RLlib's.

        :raises ValueError: naming the settings that do not exist.
        """
        before = set(vars(self))
        settings = {name: value for name, value in config_dict.items() if name not in TUNE_NOTES}
        super().update_from_dict(settings)
        unknown = sorted(set(vars(self)) - before)
        if unknown:
            for name in unknown:
                delattr(self, name)
            near = difflib.get_close_matches(unknown[0], before, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}{hint}")
        return self

    def get_state(self) -> dict[str, Any]:
        """RLlib's, from which it drops whatever equals -1, its mark of settings that are gone."""
        dropped = {name: value for name, value in vars(self).items() if isinstance(value, int | float) and value == -1}
        return {**super().get_state(), **dropped}

    def take(self, **settings: Any) -> Self:
        """Set what was given.

        :param settings: By name; what is ``UNSET`` stays as it is.
        """
        for name, value in settings.items():
            if value is not UNSET:
                setattr(self, name, value)
        return self

    def changed(self, names: Iterable[str]) -> str | None:
        """The first of some settings that differs from this algorithm's default, however RLlib calls its attribute."""
        defaults = type(self)()
        for name in names:
            for attribute in (name, f"_{name}"):
                if getattr(self, attribute, None) != getattr(defaults, attribute, None):
                    return name
        return None

    def check_lr(self) -> None:
        """Refuse a learning rate, or a schedule with one, that is negative or no number.

        :raises ValueError: naming the value.
        """
        for rate in [value for _, value in self.lr] if isinstance(self.lr, list | tuple) else [self.lr]:
            check_number("lr", rate, least=0)

    def check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Refuse a value that is not among the choices.

        :raises ValueError: listing them.
        """
        value = getattr(self, name)
        if value not in choices:
            raise unknown_choice(name, value, choices)
