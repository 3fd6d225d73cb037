"""Which agents transmit.

A gate over gradients or parameters (:class:`VectorGate`) sees what all agents could send. The others decide at the agent, from
what it knows itself, what the server broadcast with its parameters, and what the agent remembers.
"""

from rl_agg.gates.base import Gate, Offer, VectorGate
from rl_agg.gates.deviation import DeviationGate
from rl_agg.gates.espc import EspcGate, sending_probability
from rl_agg.gates.every import EveryGate
from rl_agg.gates.gain import GainThreshold
from rl_agg.gates.lag import LazyGate
from rl_agg.gates.random import RandomGate
from rl_agg.gates.registry import GATES, make_gate, register_gate
from rl_agg.gates.scores import Drawn, ScoreGate
from rl_agg.gates.td_error import TdErrorTrigger
from rl_agg.gates.transitions import TransitionGate

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
    "make_gate",
    "register_gate",
    "sending_probability",
]
