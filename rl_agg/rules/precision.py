"""Weights by the precision of gradients. Axis A: agents."""

from torch import Tensor

from rl_agg.rules.base import required, shares
from rl_agg.signals import Signals
from rl_agg.validation import check_number


def precision_weights(signals: Signals, *, least: float = 0.1) -> Tensor:
    r"""Weights inversely proportional to the variance of an agent's gradient.

    :math:`w_a = \frac{1}{\max(\nu_a, \nu_0)} / \sum_b \frac{1}{\max(\nu_b, \nu_0)}`

    Of all weighted means of independent gradients with one expectation, this one has the least variance.

    :param signals: ``noise`` ``[A]``, in units of the agents' mean; an estimate, which may be negative.
    :param least: :math:`\nu_0` > 0, in the same unit: less is not believed.
    :return: Weights ``[A]``, summing to 1.
    :raises ValueError: if ``least`` is not positive or ``noise`` is missing.

    Source: Aitken (1935), the best linear unbiased estimator.
    """
    check_number("least", least, above=0)
    return shares(1 / required(signals, "noise").clamp(min=least))
