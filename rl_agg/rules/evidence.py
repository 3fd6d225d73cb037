r"""Evidence within a run that an agent is worse than the others: a sequential test by ranks. Axis A: agents.

As long as agents are exchangeable, each update ranks them at random: with :math:`u_a` in [0, 1] the rank of agent a's signal,
0 the worst and ties halved, :math:`E[u_a] = 1/2`. Whoever bets on a's being worse, with a share :math:`\lambda` of its wealth,

.. math:: K_a \leftarrow K_a \, (1 + \lambda (1 - 2 u_a)), \quad K_a = 1 \text{ at first},

cannot expect to gain, so that :math:`P(\sup_t K_a \ge 1/\alpha) \le \alpha`, whenever one looks. It counts as established that
an agent is worse than the others while :math:`K_a \ge A S / \alpha`: with S signals, :math:`\alpha` bounds the probability
that this ever happens to any of A agents that are all alike.

Source: Ville (1939); Shafer (2021), "Testing by betting".
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BET = 0.9
"""The share that is bet. An agent that is the worst of all in each update nearly doubles the wealth."""
SPARE = math.log(10.0)
"""Wealth is kept below ten times what establishes, so that an agent that is no longer worse counts again soon."""


class Evidence:
    """Logarithms of the wealth of those who bet on each agent's being worse.

    :param num_agents: A.
    :param bound: Log of the wealth at which it counts as established.
    """

    def __init__(self, num_agents: int, bound: float) -> None:
        self._bound = bound
        self._wealth = torch.zeros(num_agents, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Add an update.

        :param values: The larger the better ``[A]``, NaN where unknown.
        """
        known = ~values.isnan()
        seen = values[known]
        if len(seen) < 2:
            return
        below = (seen[None] < seen[:, None]).double().sum(1)
        ties = (seen[None] == seen[:, None]).double().sum(1) - 1
        ranks = (below + ties / 2) / (len(seen) - 1)
        self._wealth[known] += (1 + BET * (1 - 2 * ranks)).log()
        self._wealth.clamp_(max=self._bound + SPARE)

    @property
    def established(self) -> Tensor:
        """Who is worse ``[A]``, bool."""
        return self._wealth >= self._bound

    def state_dict(self) -> dict[str, Any]:
        """The wealth."""
        return {"wealth": self._wealth.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._wealth = state["wealth"].clone()
