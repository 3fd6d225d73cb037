"""The settings of aggregation, in front of any AlgorithmConfig whose learner aggregates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from ray.rllib.utils import force_list
from torch import Tensor

from rl_agg import LOCAL_SCHEMES, Combiner, Weighting
from rl_agg.attacks import Attack
from rl_agg.exchange import ParameterServer, make_server
from rl_agg.payloads import ActorSum, FedAvg, LocalScheme
from rl_agg.scheme import Aggregation, make_aggregation
from rllib_agg.aggregation._compat import UNSET, registered_env, uses_grad_scaler
from rllib_agg.aggregation.agents import AGENT_CHOICES, AgentTagging, count_agents
from rllib_agg.aggregation.config_base import StrictConfig
from rllib_agg.aggregation.finite_observations import FiniteObservations
from rllib_agg.aggregation.learner_group import AggLearnerGroup
from rllib_agg.envs.unequal_envs import UnequalEnvs


class AggregationSettings(StrictConfig):
    """Adds the rule and its settings, and tags episodes with their agent.

    The algorithm's own config comes after it in the bases; a subclass says in ``agents`` who an agent is.
    """

    agents: str
    whole_algorithm: ClassVar[frozenset[str]] = frozenset({"agents"})
    """Settings that cannot differ from module to module."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.aggregation: str | Callable[..., Tensor] | Combiner | LocalScheme = "mean"
        self.aggregation_kwargs: dict[str, Any] = {}

    def training(
        self,
        *,
        aggregation: str | Callable[..., Tensor] | Combiner | LocalScheme = UNSET,
        aggregation_kwargs: dict[str, Any] = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training, aggregation included.

        :param aggregation: What becomes of the agents' gradients: a rule of :data:`rl_agg.RULES`, or
            ``rule(signals, **settings) -> weights [A]``; where the algorithm's learner sees all agents also a combiner of
            :data:`rl_agg.COMBINERS`, ``torchjd:NAME`` or a :class:`rl_agg.Combiner`; for AggPPO also ``fedavg`` or
            ``fedprox``, whose clients are the learners.
        :param aggregation_kwargs: Settings of what is named; of a rule also ``normalize``, to divide by the sum of the
            weights.
        :param kwargs: The algorithm's own settings.
        """
        super().training(**kwargs)
        return self.take(aggregation=aggregation, aggregation_kwargs=aggregation_kwargs)

    @property
    def num_agents(self) -> int:
        """A."""
        return count_agents(self.agents, self.num_env_runners, self.num_envs_per_env_runner)

    def make_aggregation(self) -> Aggregation:
        """The rule, combiner or scheme, checked.

        :raises ValueError: if it or one of its settings is unknown.
        """
        if not isinstance(self.aggregation_kwargs, Mapping):
            raise ValueError(f"aggregation_kwargs must be a dict, got {self.aggregation_kwargs!r}")
        return make_aggregation(self.aggregation, self.aggregation_kwargs)

    def weighting(self) -> Weighting:
        """The rule, where nothing else will do.

        :raises ValueError: if it or one of its settings is unknown, or if it is no rule.
        """
        made = self.make_aggregation()
        if not isinstance(made, Weighting):
            raise ValueError(f"{type(self).__name__} weighs agents by a rule; aggregation={self.aggregation!r} is none")
        return made

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
        envs = registered_env(self.env)
        if isinstance(envs, UnequalEnvs) and not self.in_evaluation:
            envs.check(self)
        self.check_module_settings()
        for module_id, overrides in self.algorithm_config_overrides_per_module.items():
            shared = sorted(self.whole_algorithm & set(overrides))
            if shared:
                raise ValueError(f"module {module_id!r} overrides {', '.join(shared)}, which holds for all modules alike")
            try:
                self.check_override(self.copy(copy_frozen=False).update_from_dict(overrides))
            except ValueError as error:
                raise ValueError(f"in the overrides for module {module_id!r}: {error}") from error
        callbacks = force_list(self.callbacks_class)
        if AgentTagging not in callbacks:
            self.callbacks_class = [*callbacks, AgentTagging]

    def check_module_settings(self) -> None:
        """Check the settings that may differ from module to module.

        :raises ValueError: naming the one that is wrong.
        """
        self.make_aggregation()

    def check_override(self, module_config: Self) -> None:
        """Check one module's settings beside those of all.

        :raises ValueError: naming the one that is wrong.
        """
        module_config.check_module_settings()


class AggConfigMixin(AggregationSettings):
    """The settings of an algorithm whose learner aggregates, with the learner group that goes with it."""

    local_schemes: ClassVar[tuple[type[LocalScheme], ...]] = ()
    """Schemes of local models that the algorithm can do."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.agents = "sub_env"
        self.communication = "every"
        self.communication_kwargs: dict[str, Any] = {}
        self.attack: Attack | dict[str, Any] | None = None

    def training(
        self,
        *,
        agents: str = UNSET,
        communication: str = UNSET,
        communication_kwargs: dict[str, Any] = UNSET,
        attack: Attack | dict[str, Any] | None = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training, aggregation included.

        :param agents: ``"sub_env"``: every sub-environment of every env runner is an agent; ``"env_runner"``: every runner.
        :param communication: Who sends its gradient: ``"every"`` agent at every step, or those that ``"lag"`` lets speak, see
            :class:`~rl_agg.gates.LazyGate`.
        :param communication_kwargs: Settings of ``communication``.
        :param attack: Agents that send something else, for tests: an :class:`~rl_agg.attacks.Attack` or its settings.
        :param kwargs: Those of :meth:`AggregationSettings.training` and the algorithm's own.
        """
        super().training(**kwargs)
        return self.take(agents=agents, communication=communication, communication_kwargs=communication_kwargs, attack=attack)

    def make_server(self) -> ParameterServer | None:
        """What merges the gradients; ``None`` where nobody needs to see an agent's own.

        :raises ValueError: if a setting is unknown, or does not go with the number of agents.
        """
        server = make_server(
            self.make_aggregation(),
            self.num_agents,
            communication=self.communication,
            communication_kwargs=self.communication_kwargs,
            attack=self.attack,
        )
        if server is not None:
            server.check(self.num_agents)
        return server

    def make_scheme(self) -> FedAvg | None:
        """The scheme of local models; ``None`` where gradients are merged."""
        named = isinstance(self.aggregation, str) and self.aggregation in LOCAL_SCHEMES
        if not named and not isinstance(self.aggregation, LocalScheme):
            return None  # asked for in every update: nothing is built for nothing
        made = self.make_aggregation()
        return made if isinstance(made, FedAvg) else None

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

    def check_module_settings(self) -> None:
        """Check the settings that may differ from module to module.

        :raises ValueError: naming the one that is wrong.
        """
        super().check_module_settings()
        if self.in_evaluation:  # whose env runners are not the agents
            return
        made = self.make_aggregation()
        if isinstance(made, ActorSum):
            raise ValueError(
                f"aggregation={self.aggregation!r} keeps a model for each agent, and RLlib's learners hold one for all; it is "
                "there in sb3_agg"
            )
        if isinstance(made, LocalScheme):
            self._check_scheme(made)
        if self.make_server() is not None and uses_grad_scaler(self):
            raise ValueError(
                f"aggregation={self.aggregation!r}, communication={self.communication!r} and attack={self.attack!r} need each "
                "agent's gradient as it is; switch the gradient scaler of mixed precision off"
            )

    def _check_scheme(self, scheme: LocalScheme) -> None:
        if not isinstance(scheme, self.local_schemes):
            raise ValueError(
                f"aggregation={self.aggregation!r} merges learners between updates that all of them take together; "
                f"{type(self).__name__} has none, AggPPOConfig does"
            )
        if self.num_learners < 2:
            raise ValueError(
                f"aggregation={self.aggregation!r} takes each learner for a client; set num_learners to 2 or more, not "
                f"{self.num_learners}"
            )
        try:
            scheme.check(self.num_learners)
        except ValueError as error:
            raise ValueError(f"each learner is an agent of {self.aggregation!r}: {error}") from error
        epochs = getattr(scheme, "local_epochs", None)
        num_epochs = getattr(self, "num_epochs", None)
        if epochs is not None and num_epochs is not None and max(epochs) > num_epochs:
            raise ValueError(f"local_epochs are some of an update's num_epochs={num_epochs}, got {epochs!r}")

    def check_override(self, module_config: Self) -> None:
        """Check one module's settings beside those of all.

        :raises ValueError: naming the one that is wrong.
        """
        super().check_override(module_config)
        if module_config.make_scheme() != self.make_scheme():
            raise ValueError(
                f"aggregation={module_config.aggregation!r} beside {self.aggregation!r}: a scheme of local models holds for "
                "all modules alike"
            )
