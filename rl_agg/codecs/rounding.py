"""Rounding to levels at random. Axes: S agents that send, P numbers that each sends."""

import torch
from torch import Tensor

from rl_agg.codecs.draws import Draws


def round_at_random(rows: Tensor, lengths: Tensor, levels: int, draws: Draws) -> tuple[Tensor, Tensor]:
    r"""Round magnitudes up or down to multiples of :math:`l / s`, so that their mean is what they were.

    With error feedback the length that is sent is another one, which brings the levels :math:`q` nearest to the input:
    :math:`l \langle |x|, q \rangle s / (l \lVert q \rVert^2)`. An error is then never larger than what was encoded, whatever
    the number of levels.

    :param rows: ``[S, P]``.
    :param lengths: :math:`l`, no magnitude of a row is larger ``[S, 1]``.
    :param levels: :math:`s`.
    :param draws: Random numbers of the exchange.
    :return: What is decoded ``[S, P]``, and the level of each number, 0 to :math:`s` ``[S, P]``.
    """
    lengths = lengths.clamp(min=torch.finfo(rows.dtype).tiny)  # of zeros
    exact = (rows.abs() / lengths).clamp(max=1) * levels
    whole = exact.floor()
    whole += draws(rows) < exact - whole
    if not draws.unbiased:
        lengths = lengths * (exact * whole).sum(1, keepdim=True) / whole.square().sum(1, keepdim=True).clamp(min=1)
    return rows.sign() * whole * (lengths / levels), whole
