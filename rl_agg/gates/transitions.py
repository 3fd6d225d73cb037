"""What a gate over transitions is. Axes: A agents, T steps of an episode."""

from abc import ABC, abstractmethod

from rl_agg.gates.base import Gate
from rl_agg.gates.scores import Bools, Floats


class TransitionGate(Gate, ABC):
    """Decides at each agent which transitions of its episode it sends; subclass it for a gate of your own.

    :param num_agents: A.
    """

    payloads = frozenset({"transitions"})

    @abstractmethod
    def decide_transitions(self, errors: Floats, usual: float) -> tuple[Bools, float]:
        """Decide about one agent's episode.

        :param errors: Temporal-difference errors by the broadcast action values ``[T]``, in order.
        :param usual: The one number that the agent remembers; 0 before its first episode.
        :return: Which transitions to send ``[T]``, and what the agent remembers after the episode.
        """
