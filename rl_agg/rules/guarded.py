"""The mean, until it is established that an agent is worse than the others. Axis A: agents."""

from torch import Tensor

from rl_agg.rules.agreement import agreement_weights
from rl_agg.rules.base import shares
from rl_agg.rules.explained import explained_weights
from rl_agg.signals import Signals


def guarded_weights(signals: Signals, *, prior: float = 0.1) -> Tensor:
    r"""Weights by explained variance and by agreement, of signals that differ only where that is established.

    :math:`w_a = u_a v_a / \sum_b u_b v_b`, with u the weights of ``e_weighted`` and v those of ``agreement``.

    What makes it the mean at first is the guard of its signals, see :mod:`rl_agg.rules.evidence`: those of agents that are
    not established to be worse are all the same.

    :param signals: ``explained_variance`` and ``agreement``, each ``[A]``.
    :param prior: As of ``e_weighted``.
    :return: Weights ``[A]``, summing to 1.
    :raises ValueError: if ``prior`` is negative or a signal is missing.
    """
    return shares(explained_weights(signals, prior=prior) * agreement_weights(signals))
