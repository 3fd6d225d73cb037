r"""Which samples are worth sending: EBCDQL's trigger. Axes: A agents, T steps of an episode."""

import numpy as np

from rl_agg.gates.scores import Bools, Floats
from rl_agg.gates.transitions import TransitionGate
from rl_agg.validation import check_number


class TdErrorTrigger(TransitionGate):
    r"""Send a sample if its error is large compared with the agent's earlier ones.

    .. math:: |\Delta| \ge \max(\rho L, \varepsilon), \qquad \text{then} \quad L \leftarrow (1 - \beta) L + \beta |\Delta|

    L begins at 0 and is kept from episode to episode.

    :param num_agents: A.
    :param rho: :math:`\rho` in [0, 1]; 0 sends every sample whose error is at least :math:`\varepsilon`.
    :param beta: :math:`\beta` in (0, 1].
    :param epsilon: :math:`\varepsilon` >= 0, in the reward's own units.
    :raises ValueError: if a setting is out of range.

    Source: Ornia and Mazo (2021); Gunn (2023), section 2.4.2, which gives no values: they are chosen here.
    """

    def __init__(self, num_agents: int, *, rho: float = 0.9, beta: float = 0.05, epsilon: float = 0.01) -> None:
        check_number("rho", rho, least=0, most=1)
        check_number("beta", beta, above=0, most=1)
        check_number("epsilon", epsilon, least=0)
        super().__init__(num_agents)
        self.rho, self.beta, self.epsilon = rho, beta, epsilon

    def decide_transitions(self, errors: Floats, usual: float) -> tuple[Bools, float]:
        """Go through one agent's episode.

        :param errors: Temporal-difference errors ``[T]``, in order.
        :param usual: L before it.
        :return: Which samples to send ``[T]``, and L after it.
        """
        sends = np.zeros(len(errors), dtype=np.bool_)
        for t, error in enumerate(np.abs(errors)):
            sends[t] = error >= max(self.rho * usual, self.epsilon)
            usual = (1 - self.beta) * usual + self.beta * float(error)
        return sends, usual
