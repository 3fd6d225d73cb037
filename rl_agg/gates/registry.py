"""Gates for returns, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rl_agg.gates.deviation import DeviationGate
from rl_agg.gates.espc import EspcGate
from rl_agg.gates.score_gate import Bools, Drawn, FitnessGate, Floats
from rl_agg.validation import check_settings, unknown_choice

__all__ = ["FITNESS_GATES", "EveryGate", "FitnessGate", "RandomGate", "make_fitness_gate"]


class EveryGate(FitnessGate):
    """Everyone speaks.

    :param num_agents: A.
    :param expected_messages: A.
    """

    def decide(self, drawn: Drawn, memory: Floats, told: Floats) -> tuple[Bools, Floats]:
        """All of them."""
        return np.ones(len(drawn.fitness), dtype=np.bool_), memory


class RandomGate(FitnessGate):
    """Each agent speaks with chance m/A, whatever it has to say: the control that a gate must beat.

    :param num_agents: A.
    :param expected_messages: m.
    """

    def decide(self, drawn: Drawn, memory: Floats, told: Floats) -> tuple[Bools, Floats]:
        """Those whose chance is below m/A."""
        return drawn.chances < self.expected_messages / self.num_agents, memory


FITNESS_GATES: dict[str, type[FitnessGate]] = {
    "every": EveryGate,
    "espc": EspcGate,
    "random": RandomGate,
    "deviation": DeviationGate,
}
"""Gates for returns by name."""


def make_fitness_gate(
    name: str, num_agents: int, expected_messages: int | None = None, settings: Mapping[str, Any] | None = None
) -> FitnessGate:
    """Build a gate by name.

    :param name: A name from :data:`FITNESS_GATES`.
    :param num_agents: A.
    :param expected_messages: m; ``None`` where everyone speaks anyway.
    :param settings: The gate's own.
    :raises ValueError: if the name, a setting or a value is unknown, or m is missing, superfluous or more than A.
    """
    if not isinstance(name, str) or name not in FITNESS_GATES:
        raise unknown_choice("communication", name, FITNESS_GATES)
    kind = FITNESS_GATES[name]
    settings = settings or {}
    check_settings(name, kind, settings, given=2)
    if name == "every":
        if expected_messages not in (None, num_agents):
            raise ValueError(f"with communication 'every' all {num_agents} agents speak; leave out expected_messages")
        expected_messages = num_agents
    if expected_messages is None:
        raise ValueError(f"communication {name!r} needs expected_messages, a number between 1 and {num_agents}")
    return kind(num_agents, expected_messages, **settings)
