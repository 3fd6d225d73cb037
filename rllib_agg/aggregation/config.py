"""The settings of aggregation, in front of any AlgorithmConfig whose learner aggregates."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.utils import force_list

from rl_agg import Exchange, Ledger, Payload, Schedule, Scheme
from rl_agg.attacks import Attack
from rl_agg.codecs import Compression
from rl_agg.local_schemes import LocalScheme
from rl_agg.payloads import Parameters
from rl_agg.schedules import OnArrival
from rl_agg.scheme import Aggregation, make_scheme
from rllib_agg.aggregation._compat import UNSET, registered_env, uses_grad_scaler
from rllib_agg.aggregation.agents import AGENT_CHOICES, AgentTagging, TagsSamples, tag_added, tagging
from rllib_agg.aggregation.config_base import StrictConfig
from rllib_agg.aggregation.finite_observations import FiniteObservations
from rllib_agg.aggregation.learner import AggLearnerMixin, check_learner
from rllib_agg.aggregation.learner_group import AggLearnerGroup
from rllib_agg.aggregation.masking import MaskCorruptAgents

logger = logging.getLogger(__name__)


class AggregationSettings(StrictConfig):
    """Adds the choices of a scheme, tags episodes with their agent, and masks corrupt samples.

    The algorithm's own config comes after it in the bases; a subclass says in ``agents`` who an agent is.
    """

    agents: str
    callbacks_on_sample_end: Any
    whole_algorithm: ClassVar[frozenset[str]] = frozenset({"agents"})
    """Settings that cannot differ from module to module."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.aggregation: Aggregation | LocalScheme = "mean"
        self.aggregation_kwargs: dict[str, Any] = {}
        self.communication: str = "every"
        self.communication_kwargs: dict[str, Any] = {}
        self.compression: Compression = "identity"
        self.compression_kwargs: dict[str, Any] = {}
        self.payload: str | Payload = "gradients"
        self.interval: int | str | Schedule = 1
        self.broadcast_compression: Compression = "identity"
        self.broadcast_compression_kwargs: dict[str, Any] = {}
        self.budget_bytes_per_update: float | None = None
        self.attack: Attack | Mapping[str, Any] | None = None

    def training(
        self,
        *,
        aggregation: Aggregation | LocalScheme = UNSET,
        aggregation_kwargs: dict[str, Any] = UNSET,
        communication: str = UNSET,
        communication_kwargs: dict[str, Any] = UNSET,
        compression: Compression = UNSET,
        compression_kwargs: dict[str, Any] = UNSET,
        payload: str | Payload = UNSET,
        interval: int | str | Schedule = UNSET,
        broadcast_compression: Compression = UNSET,
        broadcast_compression_kwargs: dict[str, Any] = UNSET,
        budget_bytes_per_update: float | None = UNSET,
        attack: Attack | Mapping[str, Any] | None = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training, aggregation included.

        :param aggregation: How much each agent counts: a name of :data:`rl_agg.RULES` or :data:`rl_agg.COMBINERS`,
            ``torchjd:NAME``, a :class:`rl_agg.Combiner`, or ``rule(signals, **settings) -> weights [A]``. A name of
            :data:`rl_agg.LOCAL_SCHEMES` stands for a rule, a payload and an interval.
        :param aggregation_kwargs: Settings of what is named; of a rule also ``normalize``, to divide by the sum of the
            weights.
        :param communication: Which agents transmit: a name of :data:`rl_agg.GATES`.
        :param communication_kwargs: Settings of ``communication``.
        :param compression: How a message is encoded: see :data:`~rl_agg.codecs.Compression`.
        :param compression_kwargs: Settings of ``compression``, and ``error_feedback``.
        :param payload: What is exchanged: a name of :data:`rl_agg.PAYLOADS`, or a payload.
        :param interval: Optimiser steps between two exchanges of gradients, which are averaged in between; updates between two
            of parameters. Or a :class:`rl_agg.Schedule`.
        :param broadcast_compression: The codec of the parameters that the learner sends to the agents: as ``compression``.
            Agents act by, and differentiate at, what they decode, which the module holds.
        :param broadcast_compression_kwargs: Its settings.
        :param budget_bytes_per_update: Bytes that all agents together may send in an update, on average, which a setting of
            the codec, or else of the gate, follows: see :mod:`rl_agg.byte_budget`.
        :param attack: Agents that send something else, for tests: an :class:`~rl_agg.attacks.Attack` or its settings.
        :param kwargs: The algorithm's own settings.
        """
        super().training(**kwargs)
        return self.take_arguments(locals())

    @property
    def num_agents(self) -> int:
        """A; without remote env runners, the local one samples."""
        runners: int = max(1, self.num_env_runners)
        return runners * self.num_envs_per_env_runner if self.agents == "sub_env" else runners

    def make_scheme(self) -> Scheme:
        """The scheme; ``ValueError`` if a name, setting or value is unknown, or two choices do not go together."""
        return make_scheme(
            self.aggregation,
            self.aggregation_kwargs,
            communication=self.communication,
            communication_kwargs=self.communication_kwargs,
            compression=self.compression,
            compression_kwargs=self.compression_kwargs,
            payload=self.payload,
            interval=self.interval,
            broadcast_compression=self.broadcast_compression,
            broadcast_compression_kwargs=self.broadcast_compression_kwargs,
            budget_bytes_per_update=self.budget_bytes_per_update,
        )

    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> Any:
        """RLlib's, ending in :class:`FiniteObservations`."""
        pipeline: Any = super().build_env_to_module_connector(*args, **kwargs)
        pipeline.append(FiniteObservations())
        return pipeline

    def build_learner_connector(self, *args: Any, **kwargs: Any) -> Any:
        """RLlib's, ending in :class:`MaskCorruptAgents`; a learner appends its estimation of advantages."""
        pipeline: Any = super().build_learner_connector(*args, **kwargs)
        pipeline.append(MaskCorruptAgents())
        return pipeline

    def validate(self) -> None:
        """RLlib's checks, then those of aggregation, naming the setting that is wrong; then tag agents by a callback."""
        super().validate()
        if not self.add_default_connectors_to_learner_pipeline:
            raise ValueError(f"{type(self).__name__} needs RLlib's default learner connectors; add yours to them")
        check_env = getattr(registered_env(self.env), "check", None)  # of unequal environments
        if check_env is not None and not self.in_evaluation:
            check_env(self)
        self.check_module_settings()
        for module_id, overrides in self.algorithm_config_overrides_per_module.items():
            shared = sorted(self.whole_algorithm & set(overrides))
            if shared:
                raise ValueError(f"module {module_id!r} overrides {', '.join(shared)}, which holds for all modules alike")
            try:
                self.check_override(self.copy(copy_frozen=False).update_from_dict(overrides))
            except ValueError as error:
                raise ValueError(f"in the overrides for module {module_id!r}: {error}") from error
        self._tag_agents()

    def _tag_agents(self) -> None:
        callbacks, last = force_list(self.callbacks_class), force_list(self.callbacks_on_sample_end)
        if AgentTagging not in callbacks:
            self.callbacks_class = [*callbacks, AgentTagging]
        if tag_added not in last:
            self.callbacks_on_sample_end = [*last, tag_added]
        runner: Any = self.env_runner_cls
        stock = (SingleAgentEnvRunner.sample, MultiAgentEnvRunner.sample)  # those call our callback
        if isinstance(runner, type) and not issubclass(runner, TagsSamples) and getattr(runner, "sample", None) not in stock:
            self.env_runner_cls = tagging(runner)

    def check_module_settings(self) -> None:
        """Check what may differ from module to module; ``ValueError`` names the setting that is wrong."""
        self.make_scheme()

    def check_override(self, module_config: Self) -> None:
        """Check one module's settings together with those of all; ``ValueError`` names the one that is wrong."""
        module_config.check_numbers()
        module_config.check_module_settings()


class AggConfigMixin(AggregationSettings):
    """The settings of an algorithm whose learner aggregates, with the learner group that goes with it."""

    merges_learners: ClassVar[bool] = False
    """Whether all learners take their updates together, so that their parameters can be merged in between."""

    replays: ClassVar[bool] = False
    """Whether a replay draws the samples; see :mod:`~rllib_agg.aggregation.aggregator`."""

    exchanged: ClassVar[tuple[str, ...]] = ("gradients", "parameters")
    """What agents can send, by the payload's ``content``."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.agents = "sub_env"

    def training(self, *, agents: str = UNSET, **kwargs: Any) -> Self:
        """Set up the training, aggregation included.

        :param agents: ``"sub_env"``: every sub-environment of every env runner is an agent; ``"env_runner"``: every runner.
            Where parameters are exchanged, every learner is one.
        :param kwargs: Those of :meth:`AggregationSettings.training` and the algorithm's own.
        """
        super().training(**kwargs)
        return self.take(agents=agents)

    @property
    def reports(self) -> frozenset[str]:
        """Signals that agents report where a rule reads them, beyond :data:`rl_agg.signals.BASIC`."""
        return frozenset()

    def make_exchange(self, ledger: Ledger | None = None) -> Exchange:
        """What carries the scheme out: among the agents or, where parameters are exchanged, among the learners.

        :param ledger: Counts what is sent; ``None``: one of its own.
        :raises ValueError: if a setting is unknown, or does not go with the number of agents.
        """
        scheme = self.make_scheme()
        merges_learners = scheme.payload.content == "parameters"
        num_agents = self.num_learners if merges_learners else self.num_agents
        provides = frozenset() if merges_learners else self.reports
        exchange = Exchange(scheme, num_agents, attack=self.attack, ledger=ledger, seed=self.seed, provides=provides)
        try:
            exchange.check()
        except ValueError as error:
            if not merges_learners:
                raise
            raise ValueError(f"each learner is an agent of payload {scheme.described['payload']!r}: {error}") from error
        return exchange

    def build_learner_group(
        self, *, env: Any = None, spaces: Any = None, rl_module_spec: Any = None, placement_group: Any = None
    ) -> AggLearnerGroup:
        """RLlib's, with our class; ``ValueError`` if the modules do not fit the settings."""
        spec = rl_module_spec or self.get_multi_rl_module_spec(env=env, spaces=spaces)
        self.check_modules(spec)
        return AggLearnerGroup(config=self.copy(), module_spec=spec, placement_group=placement_group)

    def check_modules(self, spec: Any) -> None:
        """Check the modules' spec; ``ValueError`` if a layer that is to be merged is not in a module."""
        known: Any = spec.rl_module_specs if isinstance(spec, MultiRLModuleSpec) else {DEFAULT_MODULE_ID: spec}
        for module_id in self.algorithm_config_overrides_per_module.keys() - known.keys():
            logger.warning(
                "algorithm_config_overrides_per_module has settings for module %r, and there %s: they act once it is added.",
                module_id,
                f"is only {next(iter(known))!r}" if len(known) == 1 else f"are {', '.join(map(repr, sorted(known)))}",
            )
        payload = self.make_scheme().payload
        if not isinstance(payload, Parameters):
            return
        _check_losses(known)
        if payload.layers is not None:
            modules: Any = spec.build()
            for module in modules.values():
                payload.selected([name for name, parameter in module.named_parameters() if parameter.requires_grad])

    def validate(self) -> None:
        """Check that the learner can aggregate."""
        super().validate()
        self.check_choice("agents", AGENT_CHOICES)
        check_learner(self.learner_class)

    def check_module_settings(self) -> None:
        """Check that the learners can exchange the payload, at the times of the schedule."""
        super().check_module_settings()
        self.check_lr()
        if self.in_evaluation:  # whose env runners are not the agents
            return
        scheme = self.make_scheme()
        payload, name = scheme.payload, scheme.described["payload"]
        if payload.content not in self.exchanged:
            raise ValueError(
                f"payload {name!r} exchanges {payload.content}, which {type(self).__name__} does not have; choose "
                f"{' or '.join(map(repr, self.exchanged))}"
            )
        if isinstance(payload, Parameters):
            self._check_parameters(scheme)
        elif payload.local:
            raise ValueError(
                f"payload {name!r} (aggregation={self.aggregation!r}) keeps parameters for each agent, but RLlib's learners "
                "have one set for all; it is available in sb3_agg"
            )
        if isinstance(scheme.schedule, OnArrival):
            raise ValueError(
                f"schedule 'on_arrival' exchanges with one agent at a time, but {type(self).__name__}'s train batches hold "
                "samples of several; use A3CConfig"
            )
        exchange = self.make_exchange()  # checks the number of agents
        if payload.content == "gradients" and not exchange.weights_only:
            self._check_separate_gradients()

    @property
    def why_separate(self) -> str:
        """What may need each agent's gradient, for messages."""
        return (
            f"aggregation={self.aggregation!r}, communication={self.communication!r}, compression={self.compression!r}, "
            f"interval={self.interval!r} and attack={self.attack!r} need each agent's gradient"
        )

    def _check_separate_gradients(self) -> None:
        needed = self.why_separate
        if uses_grad_scaler(self):
            raise ValueError(f"{needed} as it is; switch the gradient scaler of mixed precision off")
        for name in ("compute_losses", "compute_loss_for_module"):
            own: Any = self.learner_class
            if issubclass(own, AggLearnerMixin) and getattr(own, name) is not getattr(AggLearnerMixin, name):
                raise ValueError(
                    f"{needed}, which is taken from losses_per_sample(), so that {own.__name__}.{name}() would "
                    "not act; put its terms into losses_per_sample()"
                )

    def _check_parameters(self, scheme: Scheme) -> None:
        payload, name = scheme.payload, scheme.described["payload"]
        assert isinstance(payload, Parameters)
        if not self.merges_learners:
            raise ValueError(
                f"payload {name!r} merges learners between updates that all of them take together; {type(self).__name__}'s "
                "learners update whenever a batch arrives. Use AggPPOConfig, or payload='gradients'"
            )
        if self.num_learners < 2:
            raise ValueError(
                f"payload {name!r} takes each learner for an agent; set num_learners to 2 or more, not {self.num_learners}"
            )
        epochs, num_epochs = payload.local_epochs, getattr(self, "num_epochs", None)
        if epochs is not None and num_epochs is not None and max(epochs) > num_epochs:
            raise ValueError(f"local_epochs are some of an update's num_epochs={num_epochs}, got {epochs!r}")

    def check_override(self, module_config: Self) -> None:
        """Check that all modules exchange parameters alike, if they do."""
        super().check_override(module_config)
        own, common = module_config.make_scheme().payload, self.make_scheme().payload
        if isinstance(own, Parameters) != isinstance(common, Parameters) or (isinstance(own, Parameters) and own != common):
            raise ValueError(f"payload {own!r} and {common!r} differ, but parameters are exchanged of all modules alike")


def _check_losses(specs: Mapping[str, Any]) -> None:
    for module_id, own in specs.items():
        if isinstance(own.module_class, type) and issubclass(own.module_class, SelfSupervisedLossAPI):
            raise ValueError(
                f"module {module_id!r} ({own.module_class.__name__}) has a loss of its own, whose gradient all learners "
                "share, but where parameters are exchanged each learner steps by itself; choose payload='gradients'"
            )
