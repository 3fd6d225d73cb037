"""Settings that the algorithms with a server have in common, and their checks."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, TypeVar

from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rl_agg.seeding import fresh_run
from rllib_agg.aggregation._compat import ModelDefaults, leave_runner_states
from rllib_agg.aggregation.config_base import StrictConfig
from rllib_agg.aggregation.timeouts import check_timeout
from rllib_agg.server_loop.env_runner import EpisodicEnvRunner
from rllib_agg.server_loop.learner import ServerLearner

Settings = TypeVar("Settings")

RLLIB_MODEL = dataclasses.asdict(DefaultModelConfig())

SET_IN_EVALUATION = ("rollout_fragment_length", "batch_mode")
"""By RLlib itself."""


class ServerConfig(StrictConfig, ModelDefaults):
    """Checks what all such algorithms need; a subclass opens its agents in :meth:`open_agents`."""

    default_learner = ServerLearner
    env: Any
    env_config: Any
    model_config: Any
    model_settings: ClassVar[frozenset[str]] = frozenset()
    """The keys of ``model_config`` that have an effect."""

    not_used: ClassVar[tuple[str, ...]] = (
        "learner_connector",
        "learner_config_dict",
        "train_batch_size",
        "num_epochs",
        "minibatch_size",
        "shuffle_batch_per_epoch",
        "observation_filter",
        "clip_rewards",
        "rollout_fragment_length",
        "batch_mode",
        "env_to_module_connector",
        "module_to_env_connector",
        "clip_actions",
        "gym_env_vectorize_mode",
        "num_gpus_per_env_runner",
        "algorithm_config_overrides_per_module",
    )
    """Settings that would be ignored."""

    evaluated_with: ClassVar[tuple[str, ...]] = ()
    """Those of them that evaluation uses."""

    why_one_policy: ClassVar[str] = "takes single-agent environments"
    """Of the error for a config with several policies, after the config's name."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.explore = False
        self.env_runner_cls = EpisodicEnvRunner
        self.min_time_s_per_iteration = None
        leave_runner_states(self)

    def collect(self, kind: type[Settings]) -> Settings:
        """Fill a dataclass from the settings of the same names; its constructor may raise ``ValueError``."""
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]
        return kind(**{field.name: getattr(self, field.name) for field in fields})

    def draw_run(self) -> int:
        """What all random numbers of a run come from: the seed, or a fresh number without one."""
        return fresh_run() if self.seed is None else int(self.seed)

    def open_agents(self, worker_index: int = 0) -> Any:
        """Make what runs episodes, with environments of its own and methods ``run(broadcast, agents)`` and ``close()``.

        :raises ValueError: if the environment cannot be used.
        """
        raise NotImplementedError

    def validate(self) -> None:
        """Check the settings; ``ValueError`` names the one that is wrong."""
        name = type(self).__name__
        self.check_no_offline_data()
        super().validate()
        if self.num_learners:
            raise ValueError(
                f"{name} has one server, in the algorithm's own process; set num_learners=0, not {self.num_learners}"
            )
        if self.is_multi_agent:
            raise ValueError(f"{name} {self.why_one_policy}; leave .multi_agent() out")
        if not (isinstance(self.env_runner_cls, type) and issubclass(self.env_runner_cls, EpisodicEnvRunner)):
            raise ValueError(f"derive {self.env_runner_cls} from EpisodicEnvRunner")
        own: Any = self.get_default_learner_class()
        if not issubclass(self.learner_class, own):
            raise ValueError(f"derive {self.learner_class} from {own.__name__}")
        if self.learner_class.compute_loss_for_module is not ServerLearner.compute_loss_for_module:
            raise ValueError(f"{name} never calls {self.learner_class.__name__}.compute_loss_for_module(); leave it out")
        if self.env is None:
            raise ValueError(f"{name} needs an environment; name one by .environment()")
        check_timeout(self.sample_timeout_s)
        self._check_unused(name)
        self._check_module(name)

    def _check_unused(self, name: str) -> None:
        allowed = (*self.evaluated_with, *SET_IN_EVALUATION) if self.in_evaluation else ()
        if setting := self.changed(name for name in self.not_used if name not in allowed):
            hint = " in training; evaluation_config may set it" if setting in self.evaluated_with else ""
            raise ValueError(f"{name} does not use {setting}{hint}")
        known = {**RLLIB_MODEL, **self.model_derived}
        changed = {key for key, value in self.model_config.items() if key not in known or value != known[key]}
        if changed - self.model_settings:
            unused = ", ".join(sorted(map(repr, changed - self.model_settings)))
            choices = ", ".join(sorted(self.model_settings))
            raise ValueError(
                f"{name} has no model_config {unused}; " + (f"choose from {choices}" if choices else "it has none")
            )

    def _check_module(self, name: str) -> None:
        spec, default = self.rl_module_spec, self.get_default_rl_module_spec()
        if not isinstance(spec, RLModuleSpec) or not isinstance(default, RLModuleSpec):
            raise ValueError(f"{name} has one module; give an RLModuleSpec, not {type(spec).__name__}")
        chosen: Any = spec.module_class
        own: Any = default.module_class
        if not issubclass(chosen, own):
            raise ValueError(f"derive {chosen} from {own.__name__}")
        model = spec.model_config
        model = dataclasses.asdict(model) if isinstance(model, DefaultModelConfig) else model or {}
        if {**self.model_config, **model} != self.model_config:
            raise ValueError(f"{name} takes settings of its module by .rl_module(model_config=...), not in an RLModuleSpec")
