"""A config that raises on unknown settings, and that other processes read like the one that made it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.tune.result import STDERR_FILE, STDOUT_FILE
from ray.util import log_once

from rl_agg.validation import check_choice, check_count, check_number, did_you_mean
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.aggregation.registered_members import named_members

COUNTS = ("minibatch_size", "num_epochs", "train_batch_size_per_learner")
"""Settings that are at least 1 where they are given."""

BOUNDS: dict[str, dict[str, float]] = {
    "gamma": {"least": 0, "most": 1},
    "lambda_": {"least": 0, "most": 1},
    "grad_clip": {"above": 0},
    "clip_param": {"above": 0},
    "vf_loss_coeff": {"least": 0},
    "kl_coeff": {"least": 0},
}
"""Of settings that are numbers, where an algorithm has them."""

OPTIONAL = ("grad_clip", "kl_coeff")
"""Those of them that may be ``None``."""

MEMBERS = "registered_members"
"""Where the state of a config holds the registered members that it names."""

NOT_SETTINGS = (STDERR_FILE, STDOUT_FILE, MEMBERS)
"""Entries of a trial's config that are no settings: Ray Tune writes its own into it."""


OLD_STACK = {"model": "; set the module up by .rl_module(model_config=...)"}
"""Settings of RLlib's old API stack, which the new one ignores, and what to do instead."""

OLD_NAMES = {
    "num_workers": ".env_runners(num_env_runners=...)",
    "num_envs_per_worker": ".env_runners(num_envs_per_env_runner=...)",
    "min_iter_time_s": ".reporting(min_time_s_per_iteration=...)",
    "num_gpus": ".learners(num_gpus_per_learner=...)",
    "num_sgd_iter": ".training(num_epochs=...)",
    "sgd_minibatch_size": ".training(minibatch_size=...)",
}
"""Names that settings had in RLlib 1."""


class StrictConfig(AlgorithmConfig):
    """Raises on unknown settings, which RLlib keeps and never reads.

    Pickled, or as a dict, it carries the gates, codecs, rules and other members that it names and that users registered.
    """

    not_used: ClassVar[tuple[str, ...]] = ()
    """Settings of the training that would be ignored."""

    old_names: ClassVar[Mapping[str, str]] = OLD_NAMES
    """Names that settings had in RLlib's algorithm of the same name, and what is written instead."""

    default_learner: ClassVar[type | None] = None
    """``None``: that of RLlib's config, with which a user may combine this one."""

    algo_class: Any
    callbacks_class: Any
    grad_clip: Any
    num_env_runners: Any
    seed: Any
    lr: Any
    env_runner_cls: Any
    batch_mode: Any

    def get_default_learner_class(self) -> type | str:
        """The learner, unless the user sets another."""
        return self.default_learner or super().get_default_learner_class()

    def update_from_dict(self, config_dict: dict[str, Any]) -> Self:
        """RLlib's; ``ValueError`` names the settings that do not exist."""
        before = set(vars(self))
        settings = {name: value for name, value in config_dict.items() if name not in NOT_SETTINGS}
        # RLlib keeps some as attributes that it never reads, which are in the dict of another config as they are
        if old := [name for name in settings if name in self.old_names and settings[name] != vars(self).get(name, UNSET)]:
            raise ValueError(self._no_setting(old, ()))
        super().update_from_dict(settings)
        unknown = sorted(set(vars(self)) - before)
        if unknown:
            for name in unknown:
                delattr(self, name)
            raise ValueError(self._no_setting(unknown, before))
        return self

    def _no_setting(self, unknown: list[str], known: Iterable[str]) -> str:
        renamed = [f"{name} is now {self.old_names[name]}" for name in unknown if name in self.old_names]
        hint = f"; {', '.join(renamed)}" if renamed else did_you_mean(unknown[0], known)
        return f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}{hint}"

    def get_state(self) -> dict[str, Any]:
        """RLlib's, from which it drops whatever equals -1, its mark of settings that are gone."""
        dropped = {name: value for name, value in vars(self).items() if isinstance(value, int | float) and value == -1}
        return self._with_members({**super().get_state(), **dropped})

    def to_dict(self) -> dict[str, Any]:
        """RLlib's, which Ray Tune sends to its trials."""
        return self._with_members(super().to_dict())

    def __getstate__(self) -> dict[str, Any]:
        return self._with_members(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != MEMBERS})

    def _with_members(self, state: dict[str, Any]) -> dict[str, Any]:
        members = named_members(vars(self))
        return {**state, MEMBERS: members} if members else state

    def take(self, **settings: Any) -> Self:
        """Set what was given, and leave what is ``UNSET`` as it is."""
        for name, value in settings.items():
            if value is not UNSET:
                setattr(self, name, value)
        return self

    def take_arguments(self, variables: Mapping[str, Any]) -> Self:
        """Set what was given to a method, by its ``locals()``; its ``kwargs`` are those of another."""
        return self.take(**{name: value for name, value in variables.items() if name not in ("self", "kwargs", "__class__")})

    def changed(self, names: Iterable[str]) -> str | None:
        """The first of some settings that differs from the default, whatever RLlib calls its attribute."""
        defaults = type(self)()
        for name in names:
            for attribute in (name, f"_{name}"):
                if getattr(self, attribute, None) != getattr(defaults, attribute, None):
                    return name
        return None

    def training(self, **kwargs: Any) -> Self:
        """Set up the training.

        :param kwargs: RLlib's own.
        :raises ValueError: if one would be ignored.
        """
        for name, value in kwargs.items():
            if value is not UNSET and name in self.not_used:
                raise ValueError(f"{type(self).__name__} does not use {name}")
        if old := [name for name in kwargs if name in self.old_names]:
            raise TypeError(self._no_setting(old, ()))
        super().training(**kwargs)
        return self

    def validate(self) -> None:
        """RLlib's checks; ``ValueError`` as these, or if the new API stack is switched off."""
        name = type(self).__name__
        if not (self.enable_rl_module_and_learner and self.enable_env_runner_and_connector_v2):
            raise ValueError(f"{name} needs RLlib's new API stack; do not switch it off")
        known = vars(type(self)())
        for own in vars(self).keys() - known.keys():  # others may be a user's own, for callbacks to read
            if difflib.get_close_matches(own, known, cutoff=0.9):
                raise ValueError(self._no_setting([own], known))
        if setting := self.changed(OLD_STACK):
            raise ValueError(f"{name} does not use {setting}{OLD_STACK[setting]}")
        self.check_numbers()
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")  # RLlib's advice to switch it off, which is refused here
        super().validate()

    def check_numbers(self) -> None:
        """Raise ``ValueError`` if a setting, or a value of a schedule, is not a number or out of bounds."""
        for name, value in vars(self).items():
            if _has_nan(value):
                raise ValueError(f"{name} must be a number, got {value!r}")
        for name in COUNTS:
            value = getattr(self, name, None)
            if value is not None:
                check_count(name, value, least=1)
        check_count("num_env_runners", self.num_env_runners, least=0)
        if self.seed is not None:
            check_count("seed", self.seed, least=0)
        for name in BOUNDS.keys() & vars(self).keys():
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                check_number(name, value, **BOUNDS[name])
        if hasattr(self, "entropy_coeff"):
            self.check_rate("entropy_coeff")

    def check_no_offline_data(self) -> None:
        """Raise ``ValueError`` if episodes are to be read or written, where env runners do neither."""
        if setting := self.changed(("input_", "output")):
            raise ValueError(
                f"{type(self).__name__} learns from what its env runners sample, and stores no episodes; leave {setting} out "
                "of .offline_data()"
            )

    def check_lr(self) -> None:
        """Raise ``ValueError`` if a learning rate, alone or in a schedule, is negative or not a number."""
        self.check_rate("lr")

    def check_rate(self, name: str) -> None:
        """Raise ``ValueError`` if a setting, or a step or value of its schedule, is negative or not a number."""
        setting = getattr(self, name)
        if not isinstance(setting, list | tuple):
            check_number(name, setting, least=0)
            return
        for point in setting:
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise ValueError(f"{name} must be a number or a schedule [[step, value], ...], got {setting!r}")
            check_number(f"a step of {name}", point[0], least=0)
            check_number(name, point[1], least=0)

    def check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise ``ValueError``, listing the choices, if a value is not among them."""
        check_choice(name, getattr(self, name), choices)


def _has_nan(value: Any) -> bool:
    if isinstance(value, list | tuple):  # of a schedule
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)
