r"""Which gradients are worth sending: DAVIA's threshold on what they would gain."""

import math

from torch import Tensor

from rl_agg.gates.base import Offer, VectorGate
from rl_agg.validation import check_count, check_number


class GainThreshold(VectorGate):
    r"""Send a gradient if the step would lower the agent's own loss by enough, for less and less as the end comes.

    .. math:: \delta \le -\lambda \, \rho^{-(N - 1 - k)}

    with :math:`\delta` the change of the loss in update k = 0, 1, ... of N. Later updates ask for :math:`\lambda` itself.

    :param num_agents: A.
    :param lambda_: :math:`\lambda` >= 0, in the squared units of the return.
    :param rho: :math:`\rho` in (0, 1]. The first threshold is :math:`\lambda \rho^{1-N}`: with N = 1000 and 0.9 that is 1e45
        times the last, so that it should be near 1.
    :param num_updates: N >= 1.
    :raises ValueError: if a setting is out of range.

    Source: Gatsis (2021); Gunn (2023), section 2.4.3. Differs from the report's print, which leaves out what the loss was
    before and the sign, and would send only what gains nothing. The values are chosen here.
    """

    payloads = frozenset({"gradients"})
    reads = frozenset({"gains"})
    holds = False

    def __init__(self, num_agents: int, *, lambda_: float = 0.05, rho: float = 0.9995, num_updates: int = 1000) -> None:
        check_number("lambda_", lambda_, least=0)
        check_number("rho", rho, above=0, most=1)
        check_count("num_updates", num_updates, least=1)
        super().__init__(num_agents)
        self.lambda_, self.rho, self.num_updates = lambda_, rho, num_updates

    def threshold(self, update: int) -> float:
        """How much a step must lower the loss in an update; infinite where that overflows."""
        exponent = max(self.num_updates - 1 - update, 0)
        try:
            return self.lambda_ / self.rho**exponent
        except (OverflowError, ZeroDivisionError):
            return math.inf if self.lambda_ else 0.0

    def decide(self, offer: Offer) -> Tensor:
        """Those whose step would lower their own loss by enough."""
        assert offer.gains is not None
        return offer.gains <= -self.threshold(offer.step)
