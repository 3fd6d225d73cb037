"""What a gate over scores is. Axes: A agents, K numbers that an agent remembers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.byte_budget import Knob
from rl_agg.gates.base import Gate
from rl_agg.validation import check_count

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LEAST_SHARE = 1e-4
"""Of the agents, that a budget lets send in an update."""


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


class ScoreGate(Gate):
    """Decides which agents send their score, the return of their episode.

    :meth:`decide_scores` runs at the agents, the rest at the server. An agent knows its own score, what the server broadcast
    with the parameters, and what it remembers.

    :param num_agents: A.
    :param expected_messages: m, how many agents should send in an update.
    :raises ValueError: if m is not an integer in [1, A].
    """

    payloads = frozenset({"scores"})

    def __init__(self, num_agents: int, expected_messages: int) -> None:
        super().__init__(num_agents)
        check_count("expected_messages", expected_messages, least=1, most=num_agents)
        self.expected_messages: float = expected_messages
        """m; not whole where a budget of bytes moves it."""
        self.memory: Floats = np.full((num_agents, self.num_remembered), np.nan)
        """What agents remember ``[A, K]``, NaN before the first update. It is carried to wherever an agent runs."""

    @property
    def knob(self) -> Knob | None:
        """m."""
        least = LEAST_SHARE * self.num_agents
        return Knob("expected_messages", self.expected_messages, least=least, most=self.num_agents, sends_more=True)

    @property
    def num_remembered(self) -> int:
        """K."""
        return 0

    @property
    def wants_norms(self) -> bool:
        """Whether :meth:`receive` reads the norms of this update's noise, which take time to draw again."""
        return False

    def broadcast(self) -> Floats:
        """What the server broadcasts with the parameters, in a row."""
        return np.empty(0)

    def decide_scores(self, drawn: Drawn, memory: Floats, broadcast: Floats) -> tuple[Bools, Floats]:
        """Let some agents decide, each from what it knows.

        :param drawn: Of k agents.
        :param memory: Theirs ``[k, K]``; not changed.
        :param broadcast: What the server broadcast.
        :return: Who sends ``[k]``, and their new memory ``[k, K]``.
        """
        raise NotImplementedError

    def receive(self, fitness: Floats, norms: Floats, present: Bools) -> Floats:
        """Impute what was not sent, and prepare the next broadcast.

        :param fitness: ``[A]``, NaN where an agent did not send.
        :param norms: ``[A]``, NaN where an agent did not send, and for all if it does not want norms.
        :param present: Who ran an episode with a finite return, bool ``[A]``.
        :return: What to take for each agent's return ``[A]``, NaN for nothing.
        """
        return fitness

    def state_dict(self) -> dict[str, Any]:
        """What agents remember, and what decides the next broadcast."""
        return {"memory": self.memory.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; of another population or memory, agents have forgotten everything."""
        if state["memory"].shape == self.memory.shape:
            self.memory = state["memory"].copy()
