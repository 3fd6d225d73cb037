"""Who speaks: gates for gradients, for returns, for samples and for gradients of a value function.

A gate for gradients (:class:`LazyGate`) sees what all agents could send. The others decide at the agent, from what it knows
itself, what the learner broadcast with its parameters, and what the agent remembers.
"""

from rl_agg.gates.deviation import DeviationGate
from rl_agg.gates.espc import EspcGate, chance_to_speak
from rl_agg.gates.gain import GainThreshold
from rl_agg.gates.lag import GATES, LazyGate, make_gate
from rl_agg.gates.registry import FITNESS_GATES, EveryGate, FitnessGate, RandomGate, make_fitness_gate
from rl_agg.gates.td_error import TdErrorTrigger

__all__ = [
    "FITNESS_GATES",
    "GATES",
    "DeviationGate",
    "EspcGate",
    "EveryGate",
    "FitnessGate",
    "GainThreshold",
    "LazyGate",
    "RandomGate",
    "TdErrorTrigger",
    "chance_to_speak",
    "make_fitness_gate",
    "make_gate",
]
