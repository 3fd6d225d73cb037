"""Combiners that tolerate a known number of faulty agents. Axes: A agents, P parameters."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rl_agg.combiners.base import Combiner
from rl_agg.validation import check_count


@dataclass(frozen=True)
class Byzantine(Combiner):
    """A combiner that tolerates ``num_byzantine`` faulty agents; masked agents count among them.

    :param num_byzantine: f, how many agents may send arbitrary gradients.
    :raises ValueError: if f is not an integer >= 0.
    """

    name: ClassVar[str]
    """Its name in :data:`rl_agg.COMBINERS`."""

    num_byzantine: int = 1

    def __post_init__(self) -> None:
        check_count("num_byzantine", self.num_byzantine, least=0)

    @staticmethod
    @abstractmethod
    def most_byzantine(num_agents: int) -> int:
        """The largest f that ``num_agents`` allow."""

    def check(self, num_agents: int) -> None:
        """Raise if A agents do not allow f."""
        most = self.most_byzantine(num_agents)
        if self.num_byzantine > most:
            raise ValueError(
                f"{self.name} with num_byzantine={self.num_byzantine} needs more than {num_agents} agents, which allow "
                f"{f'at most {most}' if most >= 0 else 'none'}"
            )

    def tolerated(self, num_present: int, num_masked: int) -> int:
        """f among the agents that are left."""
        return max(0, min(self.num_byzantine - num_masked, self.most_byzantine(num_present)))
