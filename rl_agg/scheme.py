"""A system as one choice on each axis: gate, codec, rule, payload, schedule."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rl_agg.byte_budget import ByteBudget, check_budget
from rl_agg.codecs import CODECS, FEEDBACKS, Chain, Codec, Compression, Identity, make_codec
from rl_agg.combiners import COMBINERS, TORCHJD, Combiner, make_combiner
from rl_agg.gates import GATES, EveryGate, Gate, make_gate
from rl_agg.local_schemes import LOCAL_SCHEMES, LocalScheme
from rl_agg.payloads import PAYLOADS, Gradients, GradientsWithOwn, Parameters, Payload, make_payload
from rl_agg.payloads.base import VECTORS
from rl_agg.registry import class_error
from rl_agg.rules import RULES
from rl_agg.rules.memory import STARTS
from rl_agg.schedules import SCHEDULES, EveryStep, OnArrival, Schedule, make_schedule
from rl_agg.signals import BASIC, COMPARED, REPORTED
from rl_agg.validation import build, check_settings, unknown_choice
from rl_agg.weighting import MEMORY_SETTINGS, Weighting

Aggregation = str | Callable[..., Tensor] | Weighting | Combiner
"""A name of :data:`rl_agg.RULES` or :data:`rl_agg.COMBINERS`, ``torchjd:NAME``, a callable ``signals -> weights [A]``, a
weighting or a combiner."""


@dataclass(frozen=True)
class Scheme:
    """One choice on each axis, checked: a combination works, or raises an error with the reason.

    >>> Scheme(gate="lag", rule="krum", payload="parameters", schedule=4).payload.content
    'parameters'
    >>> Scheme(gate="espc", rule="mean")
    Traceback (most recent call last):
    ValueError: gate 'espc' decides about scores, but payload 'gradients' exchanges gradients; choose every, gain, lag, random

    :param gate: Which agents transmit: a name of :data:`rl_agg.GATES`.
    :param codec: How a message is encoded: see :data:`~rl_agg.codecs.Compression`.
    :param rule: How much each agent counts; see :data:`Aggregation`.
    :param payload: What is exchanged: a name of :data:`rl_agg.PAYLOADS`, or a payload.
    :param schedule: When: steps between two exchanges, a name of :data:`rl_agg.SCHEDULES`, or a schedule.
    :param gate_kwargs: The gate's settings.
    :param codec_kwargs: The codec's settings; empty once the codec is built, as are ``rule_kwargs``.
    :param rule_kwargs: The rule's settings, ``normalize`` included.
    :param error_feedback: What becomes of what a codec loses: ``"classic"``, which ``True`` stands for, ``"ef21"``, see
        :mod:`rl_agg.codecs.feedback`, or ``False``: nothing; ``None``: ``"classic"`` where the codec is lossy.
    :param broadcast: How the parameters are encoded that the learner sends to the agents: as ``codec``; see
        :mod:`rl_agg.downlink`.
    :param broadcast_kwargs: Its settings; empty once it is built.
    :param budget_bytes_per_update: Bytes that all agents together may send in an update, on average: a setting of the codec,
        or else of the gate, follows it, see :mod:`rl_agg.byte_budget`; ``None``: as many as they do.
    :raises ValueError: if a name, a setting or a value is unknown, or two choices do not go together.
    """

    gate: str = "every"
    codec: Any = "identity"
    rule: Any = "mean"
    payload: Any = "gradients"
    schedule: Any = 1
    gate_kwargs: Mapping[str, Any] = field(default_factory=dict)
    codec_kwargs: Mapping[str, Any] = field(default_factory=dict)
    rule_kwargs: Mapping[str, Any] = field(default_factory=dict)
    error_feedback: bool | str | None = None
    broadcast: Any = "identity"
    broadcast_kwargs: Mapping[str, Any] = field(default_factory=dict)
    budget_bytes_per_update: float | None = None

    def __post_init__(self) -> None:
        for name in ("gate_kwargs", "codec_kwargs", "rule_kwargs", "broadcast_kwargs"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        check_settings(self.gate, GATES.find(self.gate), self.gate_kwargs, given=1)
        codec = make_codec(self.codec, self.codec_kwargs)
        resolved = {
            "codec": codec,
            "rule": make_rule(self.rule, self.rule_kwargs),
            "payload": make_payload(self.payload),
            "schedule": make_schedule(self.schedule),
            "error_feedback": _feedback_of(self.error_feedback, codec),
            "broadcast": make_codec(self.broadcast, self.broadcast_kwargs),
            "gate_kwargs": dict(self.gate_kwargs),
            "codec_kwargs": {},  # what they were for has them now
            "rule_kwargs": {},
            "broadcast_kwargs": {},
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)
        if self.budget_bytes_per_update is not None:
            check_budget(self.budget_bytes_per_update)
        self._check_contents()
        self._check_pairs()
        self._check_broadcast()

    def _check_contents(self) -> None:
        """Check that every choice can work with what is exchanged."""
        content, names = self.payload.content, self.described
        choices: dict[str, tuple[Any, str, Mapping[str, Any]]] = {
            "gate": (GATES[self.gate], "decides about", GATES),
            "codec": (self.codec, "encodes", CODECS),
            "rule": (self.rule, "merges", {**RULES, **COMBINERS}),
            "schedule": (self.schedule, "times", SCHEDULES),
        }
        for axis, (choice, verb, members) in choices.items():
            if content not in choice.payloads:
                fitting = sorted(name for name, member in members.items() if content in member.payloads)
                raise ValueError(
                    f"{axis} {names[axis]!r} {verb} {' and '.join(sorted(choice.payloads))}, but payload {names['payload']!r} "
                    f"exchanges {content}; choose {', '.join(fitting)}"
                )

    def _check_pairs(self) -> None:
        """Check what else two choices may have against each other."""
        names = self.described
        if isinstance(self.payload, GradientsWithOwn):
            if not isinstance(self.schedule, EveryStep):
                raise ValueError(
                    f"payload {names['payload']!r} needs the merged gradient at every step, got schedule "
                    f"{names['schedule']!r}; choose every_step"
                )
            if names["rule"] not in ("sum", "mean"):
                raise ValueError(
                    f"payload {names['payload']!r} adds a sum or mean to each agent's own gradient, got rule "
                    f"{names['rule']!r}; choose mean, sum"
                )
        if isinstance(self.schedule, OnArrival) and self.gate == "random":
            raise ValueError(
                "gate 'random' draws among agents that exchange together, but schedule 'on_arrival' exchanges with one alone; "
                "choose another gate"
            )
        if isinstance(self.schedule, OnArrival) and not self.needs <= set(BASIC):
            raise ValueError(
                f"rule {names['rule']!r} reads {', '.join(sorted(self.needs - set(BASIC)))}, by which agents that exchange "
                "together are compared, but schedule 'on_arrival' exchanges with one alone; choose another rule"
            )

    def _check_broadcast(self) -> None:
        """Check that the parameters that are encoded on the way down are sent."""
        if not self.encodes_broadcasts:
            return
        content, names = self.payload.content, self.described
        if content not in VECTORS or self.payload.answer != "parameters":
            why = f"is answered with {self.payload.answer}" if content in VECTORS else f"exchanges {content}"
            raise ValueError(
                f"broadcast {names['broadcast']!r} encodes the parameters that gradients and parameters are answered with, "
                f"but payload {names['payload']!r} {why}; choose another payload, or leave the broadcast out"
            )
        if "parameters" not in self.broadcast.payloads:
            raise ValueError(
                f"broadcast {names['broadcast']!r} encodes {' and '.join(sorted(self.broadcast.payloads))}, but a learner "
                "broadcasts parameters; choose another codec"
            )

    @property
    def encodes_broadcasts(self) -> bool:
        """Whether agents hold something else than the learner's parameters."""
        return type(self.broadcast) is not Identity

    def make_budget(self, gate: Gate) -> ByteBudget | None:
        """What follows the budget of bytes; ``None`` where there is no budget.

        :param gate: As of :meth:`make_gate`.
        :raises ValueError: if neither codec nor gate has a setting that could follow it.
        """
        if self.budget_bytes_per_update is None:
            return None
        knob = self.codec.knob or gate.knob
        if knob is None:
            names = self.described
            gates = ", ".join(sorted(name for name, kind in GATES.items() if kind.knob not in (Gate.knob, EveryGate.knob)))
            codecs = ", ".join(sorted(name for name, kind in CODECS.items() if kind.knob is not Codec.knob))
            raise ValueError(
                f"budget_bytes_per_update={self.budget_bytes_per_update!r} has nothing to be kept by: codec "
                f"{names['codec']!r} and gate {names['gate']!r} have no setting that moves what is sent, or it is fixed; "
                f"choose a gate of {gates}, or a codec of {codecs} with a fraction"
            )
        return ByteBudget(self.budget_bytes_per_update, knob)

    @property
    def described(self) -> dict[str, str]:
        """What was chosen on each axis, by its name."""
        return {
            "gate": self.gate,
            "codec": _name_of(self.codec, CODECS),
            "rule": _name_of(self.rule, COMBINERS),
            "payload": _name_of(self.payload, PAYLOADS),
            "schedule": _name_of(self.schedule, SCHEDULES),
            "broadcast": _name_of(self.broadcast, CODECS),
        }

    @property
    def accumulates(self) -> bool:
        """Whether there may be steps without an exchange."""
        return type(self.schedule) not in (EveryStep, OnArrival)  # others may override when one is due

    @property
    def weights_only(self) -> bool:
        """Whether the weights are all that a host needs, so that one backward pass does for all agents."""
        return (
            self.gate == "every"
            and type(self.codec) is Identity
            and isinstance(self.rule, Weighting)
            and not self.compared
            and type(self.payload) is Gradients  # others may override what agents send
            and not self.accumulates
        )

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the rule reads."""
        return self.rule.needs if isinstance(self.rule, Weighting) else frozenset()

    @property
    def reported(self) -> frozenset[str]:
        """Those that agents send."""
        return self.needs & set(REPORTED)

    @property
    def compared(self) -> frozenset[str]:
        """Those that the server finds by comparing what it received."""
        return self.needs & set(COMPARED)

    def make_gate(self, num_agents: int) -> Gate:
        """The gate, as it is before the first exchange.

        :param num_agents: A.
        :raises ValueError: if a setting is unknown, or does not fit A.
        """
        return make_gate(self.gate, num_agents, self.gate_kwargs)

    def check(self, num_agents: int, *, provides: frozenset[str] = frozenset()) -> None:
        """Check that all choices can work with a number of agents.

        :param num_agents: A.
        :param provides: What the host knows beyond the vectors and :data:`~rl_agg.signals.BASIC` signals: ``gains`` of
            :class:`~rl_agg.gates.Offer`, ``explained_variance`` of :class:`~rl_agg.Signals`.
        :raises ValueError: if one cannot, naming it and the bound.
        """
        gate = self.make_gate(num_agents)
        self.make_budget(gate)
        if not gate.reads <= provides:
            raise ValueError(
                f"gate {self.gate!r} reads {', '.join(sorted(gate.reads - provides))}, which this algorithm does not provide "
                f"with payload {self.described['payload']!r}: the change of each agent's loss by its own step is known to "
                "DAVIAConfig alone; choose another gate"
            )
        if missing := sorted(self.reported - set(BASIC) - provides):
            raise ValueError(
                f"rule {self.described['rule']!r} reads {', '.join(missing)}, which this algorithm does not report with "
                f"payload {self.described['payload']!r}; choose another rule"
            )
        if isinstance(self.rule, Combiner):
            self.rule.check(num_agents)
        if isinstance(self.payload, Parameters):
            self.payload.check(num_agents)


def _names() -> list[str]:
    """What ``aggregation`` may name."""
    return [*RULES, *COMBINERS, "torchjd:NAME", *LOCAL_SCHEMES]


def make_rule(rule: Aggregation, settings: Mapping[str, Any]) -> Weighting | Combiner:
    """Build a rule or a combiner.

    :param rule: See :data:`Aggregation`.
    :param settings: Settings of what is named; for a rule or a callable also ``normalize``, for one that reads signals which
        are remembered also ``smoothing`` and ``guard``.
    :raises ValueError: if a name, a setting or a value is unknown.
    """
    own = dict(settings)
    if isinstance(rule, type):
        raise class_error("aggregation", rule, {**COMBINERS, **LOCAL_SCHEMES})
    if isinstance(rule, LocalScheme) or (isinstance(rule, str) and rule in LOCAL_SCHEMES):
        raise ValueError(f"aggregation={rule!r} is a rule and a payload; build it with rl_agg.scheme.make_scheme")
    if isinstance(rule, Weighting | Combiner):
        if own:
            raise ValueError(f"{rule!r} has its settings already, got {own} as well")
        # Some combiners remember what they have seen, and may be used for another run
        return copy.deepcopy(rule) if isinstance(rule, Combiner) else rule
    if isinstance(rule, str) and rule not in RULES:
        if rule in COMBINERS or rule.startswith(TORCHJD):
            return make_combiner(rule, own)
        raise unknown_choice("aggregation", rule, _names())
    if not isinstance(rule, str) and not callable(rule):
        raise ValueError(f"a rule is a name or a callable, got {rule!r}; names: {', '.join(sorted(_names()))}")
    normalize = own.pop("normalize", False)
    remembers = isinstance(rule, str) and not RULES[rule].needs.isdisjoint(STARTS)
    memory = {name: own.pop(name) for name in MEMORY_SETTINGS if remembers and name in own}
    return Weighting(rule, own, normalize, **memory)


def make_scheme(
    aggregation: Aggregation | LocalScheme,
    aggregation_kwargs: Mapping[str, Any] | None = None,
    *,
    communication: str = "every",
    communication_kwargs: Mapping[str, Any] | None = None,
    compression: Compression = "identity",
    compression_kwargs: Mapping[str, Any] | None = None,
    payload: str | Payload = "gradients",
    interval: int | str | Schedule = 1,
    broadcast_compression: Compression = "identity",
    broadcast_compression_kwargs: Mapping[str, Any] | None = None,
    budget_bytes_per_update: float | None = None,
) -> Scheme:
    """The scheme that an algorithm's arguments ask for.

    :param aggregation: See :data:`Aggregation`; or a name of :data:`rl_agg.LOCAL_SCHEMES`, or such a scheme, which stands for
        a rule and a payload.
    :param aggregation_kwargs: Settings of what is named; for a rule or a callable also ``normalize``.
    :param communication: The gate.
    :param communication_kwargs: Its settings.
    :param compression: The codec, or several; see :data:`~rl_agg.codecs.Compression`.
    :param compression_kwargs: Its settings, and ``error_feedback``.
    :param payload: What is exchanged.
    :param interval: Steps between two exchanges.
    :param broadcast_compression: The codec of the parameters that the learner sends, or several.
    :param broadcast_compression_kwargs: Its settings.
    :param budget_bytes_per_update: As of :class:`Scheme`.
    :raises ValueError: as :class:`Scheme`; or if two arguments say different things.
    """
    given = {
        "aggregation_kwargs": aggregation_kwargs,
        "communication_kwargs": communication_kwargs,
        "compression_kwargs": compression_kwargs,
        "broadcast_compression_kwargs": broadcast_compression_kwargs,
    }
    for name, settings in given.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f"{name} must be a dict, got {settings!r}")
    if communication == "every":  # the default, where the gate was forgotten
        for name in communication_kwargs or {}:
            gates = [gate for gate, kind in GATES.items() if name in inspect.signature(kind).parameters]
            if gates and communication not in gates:
                raise ValueError(
                    f"every has no setting {name!r}, which is one of communication {' or '.join(map(repr, gates))}; "
                    "name that gate"
                )
    own = dict(aggregation_kwargs or {})
    if isinstance(aggregation, str) and aggregation in LOCAL_SCHEMES:
        aggregation, own = build(aggregation, LOCAL_SCHEMES[aggregation], own), {}
    if isinstance(aggregation, LocalScheme):
        if own:
            raise ValueError(f"{aggregation!r} has its settings already, got {own} as well")
        payload, interval = _payload_of(aggregation, payload), _interval_of(aggregation, interval)
        aggregation = aggregation.rule
    codec_kwargs = dict(compression_kwargs or {})
    if "error_feedback" in (broadcast_compression_kwargs or {}):
        raise ValueError(
            "broadcast_compression has error feedback in any case, as the learner sends differences from what agents hold; "
            "leave error_feedback out of broadcast_compression_kwargs"
        )
    return Scheme(
        gate=communication,
        gate_kwargs=dict(communication_kwargs or {}),
        error_feedback=codec_kwargs.pop("error_feedback", None),
        codec=compression,
        codec_kwargs=codec_kwargs,
        rule=aggregation,
        rule_kwargs=own,
        payload=payload,
        schedule=interval,
        broadcast=broadcast_compression,
        broadcast_kwargs=dict(broadcast_compression_kwargs or {}),
        budget_bytes_per_update=budget_bytes_per_update,
    )


def _payload_of(scheme: LocalScheme, payload: str | Payload) -> Payload:
    own = scheme.payload()
    asked = make_payload(payload)
    says_the_same = type(asked) is type(own) if isinstance(payload, str) else asked == own
    if payload != "gradients" and not says_the_same:
        raise ValueError(f"aggregation={scheme!r} exchanges {own!r}, but payload={payload!r} was given; leave one out")
    return own


def _interval_of(scheme: LocalScheme, interval: int | str | Schedule) -> int | str | Schedule:
    asked, own = make_schedule(interval), make_schedule(scheme.interval)
    if interval == 1:
        return own
    if own not in (EveryStep(), asked):
        raise ValueError(
            f"aggregation={scheme!r} has an interval of its own, but interval={interval!r} was given; leave one out"
        )
    return interval


def _feedback_of(asked: Any, codec: Codec) -> str | bool:
    kind = codec.lossy if asked is None else asked
    if kind is True:
        kind = "classic"
    if kind is not False and (not isinstance(kind, str) or kind not in FEEDBACKS):
        raise unknown_choice("error_feedback", asked, ["True", "False", *FEEDBACKS])
    if kind and not codec.lossy:
        name = _name_of(codec, CODECS)
        raise ValueError(f"error_feedback={asked!r} has nothing to feed back: codec {name!r} is lossless")
    return kind


def _name_of(item: object, registry: Mapping[str, type]) -> str:
    if isinstance(item, Chain):
        return "+".join(_name_of(codec, registry) for codec in item.codecs)
    named = (name for name, kind in registry.items() if kind is type(item))
    return next(named, getattr(item, "name", type(item).__name__))
