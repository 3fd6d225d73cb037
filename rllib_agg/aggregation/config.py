"""The settings of aggregation, in front of any AlgorithmConfig whose learner aggregates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.utils import force_list
from ray.tune.result import STDERR_FILE, STDOUT_FILE
from torch import Tensor

from rl_agg import Weighting
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.aggregation.agents import AGENT_CHOICES, AgentTagging, count_agents
from rllib_agg.aggregation.finite_observations import FiniteObservations
from rllib_agg.aggregation.learner_group import AggLearnerGroup

TUNE_NOTES = (STDERR_FILE, STDOUT_FILE)
"""What Ray Tune writes into every trial's config for itself."""


class StrictConfig(AlgorithmConfig):
    """Refuses settings that it does not know; RLlib keeps them and never reads them."""

    callbacks_class: Any
    grad_clip: Any
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
            raise ValueError(f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}")
        return self

    def check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Refuse a value that is not among the choices.

        :raises ValueError: listing them.
        """
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")


class AggregationSettings(StrictConfig):
    """Adds the rule and its settings, and tags episodes with their agent.

    The algorithm's own config comes after it in the bases; a subclass says in ``agents`` who an agent is.
    """

    agents: str
    whole_algorithm: ClassVar[frozenset[str]] = frozenset({"agents"})
    """Settings that cannot differ from module to module."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.aggregation: str | Callable[..., Tensor] = "mean"
        self.aggregation_kwargs: dict[str, Any] = {}

    def training(
        self,
        *,
        aggregation: str | Callable[..., Tensor] = UNSET,
        aggregation_kwargs: dict[str, Any] = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training, aggregation included.

        :param aggregation: How much each agent counts: a name from :data:`rl_agg.RULES`, or
            ``rule(signals, **settings) -> weights [A]``.
        :param aggregation_kwargs: Settings of the rule, and ``normalize`` to divide by the sum of the weights.
        :param kwargs: The algorithm's own settings.
        """
        super().training(**kwargs)
        if aggregation is not UNSET:
            self.aggregation = aggregation
        if aggregation_kwargs is not UNSET:
            self.aggregation_kwargs = aggregation_kwargs
        return self

    @property
    def num_agents(self) -> int:
        """A."""
        return count_agents(self.agents, self.num_env_runners, self.num_envs_per_env_runner)

    def weighting(self) -> Weighting:
        """The rule, checked.

        :raises ValueError: if the rule or one of its settings is unknown.
        """
        if not isinstance(self.aggregation_kwargs, Mapping):
            raise ValueError(f"aggregation_kwargs must be a dict, got {self.aggregation_kwargs!r}")
        settings = dict(self.aggregation_kwargs)
        normalize = settings.pop("normalize", False)
        if not isinstance(normalize, bool):
            raise ValueError(f"normalize must be True or False, got {normalize!r}")
        return Weighting(self.aggregation, settings, normalize)

    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> Any:
        """RLlib's, ending in :class:`FiniteObservations`."""
        pipeline: Any = super().build_env_to_module_connector(*args, **kwargs)
        pipeline.append(FiniteObservations())
        return pipeline

    def validate(self) -> None:
        """RLlib's checks, then those of aggregation; also appends the tagging of agents to the callbacks.

        :raises ValueError: naming the setting that is wrong.
        """
        if not (self.enable_rl_module_and_learner and self.enable_env_runner_and_connector_v2):
            raise ValueError(f"{type(self).__name__} needs RLlib's new API stack; do not switch it off")
        super().validate()
        if not self.add_default_connectors_to_learner_pipeline:
            raise ValueError(f"{type(self).__name__} needs RLlib's default learner connectors; add yours to them")
        self.check_module_settings()
        for module_id, overrides in self.algorithm_config_overrides_per_module.items():
            shared = sorted(self.whole_algorithm & set(overrides))
            if shared:
                raise ValueError(f"module {module_id!r} overrides {', '.join(shared)}, which holds for all modules alike")
            try:
                self.copy(copy_frozen=False).update_from_dict(overrides).check_module_settings()
            except ValueError as error:
                raise ValueError(f"in the overrides for module {module_id!r}: {error}") from error
        callbacks = force_list(self.callbacks_class)
        if AgentTagging not in callbacks:
            self.callbacks_class = [*callbacks, AgentTagging]

    def check_module_settings(self) -> None:
        """Check the settings that may differ from module to module.

        :raises ValueError: naming the one that is wrong.
        """
        self.weighting()


class AggConfigMixin(AggregationSettings):
    """The settings of an algorithm whose learner aggregates, with the learner group that goes with it."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.agents = "sub_env"

    def training(self, *, agents: str = UNSET, **kwargs: Any) -> Self:
        """Set up the training, aggregation included.

        :param agents: ``"sub_env"``: every sub-environment of every env runner is an agent; ``"env_runner"``: every runner.
        :param kwargs: Those of :meth:`AggregationSettings.training` and the algorithm's own.
        """
        super().training(**kwargs)
        if agents is not UNSET:
            self.agents = agents
        return self

    def build_learner_group(
        self, *, env: Any = None, spaces: Any = None, rl_module_spec: Any = None, placement_group: Any = None
    ) -> AggLearnerGroup:
        """RLlib's, with our class."""
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        return AggLearnerGroup(config=self.copy(), module_spec=spec, placement_group=placement_group)

    def validate(self) -> None:
        """Check that the learner can aggregate.

        :raises ValueError: naming the setting that is wrong.
        """
        super().validate()
        self.check_choice("agents", AGENT_CHOICES)
        if not hasattr(self.learner_class, "losses_per_sample"):
            raise ValueError(
                f"aggregation={self.aggregation!r} needs a learner with a loss per sample; {self.learner_class} reduces its "
                "loss to one number. Derive it from a learner of rllib_agg, or from AggLearnerMixin and RLlib's, with a "
                "losses_per_sample() of your own"
            )
