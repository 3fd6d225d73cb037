"""What a gate for returns is. Axes: A agents, K numbers that an agent remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import check_count

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What agents know after an episode; every field has one entry per agent.

    :param fitness: Return F of the perturbed parameters, in the environment's own units.
    :param norms: Euclidean norm of the perturbation.
    :param chances: Uniform on [0, 1), the agent's own.
    """

    fitness: Floats
    norms: Floats
    chances: Floats


class FitnessGate:
    """Decides who sends its return. :meth:`decide` runs at the agents, the rest at the learner.

    :param num_agents: A, at least 1.
    :param expected_messages: m, how many of them should speak in an update.
    :raises ValueError: if m is no integer in [1, A].
    """

    def __init__(self, num_agents: int, expected_messages: int) -> None:
        check_count("expected_messages", expected_messages, least=1, most=num_agents)
        self.num_agents = num_agents
        self.expected_messages = expected_messages
        self.memory: Floats = np.full((num_agents, self.num_remembered), np.nan)
        """What agents remember ``[A, K]``, NaN where nothing yet. Agents that run anywhere have it carried to them."""

    @property
    def num_remembered(self) -> int:
        """K."""
        return 0

    @property
    def wants_norms(self) -> bool:
        """Whether :meth:`receive` will look at the norms of this update's noise, which take time to draw again."""
        return False

    def told(self) -> Floats:
        """What the learner broadcasts with its parameters, in a row."""
        return np.empty(0)

    def decide(self, drawn: Drawn, memory: Floats, told: Floats) -> tuple[Bools, Floats]:
        """Let some agents decide, each from what it knows.

        :param drawn: Of k agents.
        :param memory: Theirs ``[k, K]``; not changed.
        :param told: What the learner broadcast.
        :return: Who speaks ``[k]``, and their new memory ``[k, K]``.
        """
        raise NotImplementedError

    def receive(self, fitness: Floats, norms: Floats, present: Bools) -> Floats:
        """Let the learner make of the messages what it can, and prepare the next broadcast.

        :param fitness: ``[A]``, NaN for the silent.
        :param norms: ``[A]``, NaN for the silent, and for all if it does not want norms.
        :param present: Who ran an episode with a finite return, bool ``[A]``; the others neither spoke nor were silent.
        :return: What to take for each agent's return ``[A]``, NaN for nothing.
        """
        return fitness

    def state_dict(self) -> dict[str, Any]:
        """What agents remember and the learner will tell."""
        return {"memory": self.memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; afresh if it is of another population or memory."""
        if state["memory"].shape == self.memory.shape:
            self.memory = state["memory"].copy()
