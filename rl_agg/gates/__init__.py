"""Which agents transmit.

A gate over gradients or parameters (:class:`VectorGate`) sees what all agents could send. The others decide at the agent, from
what it knows itself, what the server broadcast with its parameters, and what the agent remembers.
"""

from collections.abc import Mapping
from typing import Any

from rl_agg.gates.base import Gate, Offer, VectorGate, decided
from rl_agg.gates.deviation import DeviationGate
from rl_agg.gates.espc import EspcGate, sending_probability
from rl_agg.gates.every import EveryGate
from rl_agg.gates.gain import GainThreshold
from rl_agg.gates.lag import LazyGate
from rl_agg.gates.random import RandomGate
from rl_agg.gates.scores import Drawn, ScoreGate
from rl_agg.gates.td_error import TdErrorTrigger
from rl_agg.gates.transitions import TransitionGate
from rl_agg.registry import Registry, check_member
from rl_agg.validation import build

__all__ = [
    "GATES",
    "DeviationGate",
    "Drawn",
    "EspcGate",
    "EveryGate",
    "GainThreshold",
    "Gate",
    "LazyGate",
    "Offer",
    "RandomGate",
    "ScoreGate",
    "TdErrorTrigger",
    "TransitionGate",
    "VectorGate",
    "decided",
    "make_gate",
    "register_gate",
    "sending_probability",
]

GATES: Registry[type[Gate]] = Registry(
    "gate",
    "communication",
    {
        "every": EveryGate,
        "random": RandomGate,
        "lag": LazyGate,
        "espc": EspcGate,
        "deviation": DeviationGate,
        "td_error": TdErrorTrigger,
        "gain": GainThreshold,
    },
)
"""Gates by name."""


def register_gate(name: str, gate: type[Gate]) -> None:
    """Let ``communication=name`` stand for a gate.

    :param name: What users write.
    :param gate: Built as ``gate(num_agents, **settings)``.
    :raises ValueError: if the name is taken or not an identifier, or ``gate`` is not a concrete subclass of
        :class:`Gate` with ``payloads``.
    """
    check_member("gate", Gate, gate)
    if not hasattr(gate, "payloads"):
        raise ValueError(
            f"a gate must have payloads, as VectorGate, ScoreGate and TransitionGate of rl_agg.gates have, got {gate!r}"
        )
    GATES.register(name, gate)


def make_gate(name: str, num_agents: int, settings: Mapping[str, Any]) -> Gate:
    """Build a gate by name.

    :param name: A name of :data:`GATES`.
    :param num_agents: A.
    :param settings: Its settings.
    :raises ValueError: if the name, a setting or a value is unknown.
    """
    return build(name, GATES.find(name), settings, num_agents)
