"""Weights by loss. Axis A: agents."""

from collections.abc import Callable

from torch import Tensor

from rl_agg.rules.base import above_least, floor, required, shares
from rl_agg.signals import Signals
from rl_agg.validation import check_choice

GUARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": above_least,
    "abs": lambda losses: losses.abs(),
    "clip": lambda losses: losses.clamp(min=0),
}
"""What makes losses of mixed sign shareable, by name."""
MIXED_SIGN_CHOICES = (*GUARDS, "literal")


def loss_weights(signals: Signals, *, h: float | None = None, mixed_sign: str = "shift") -> Tensor:
    r"""Weights proportional to the loss, plus a floor.

    :math:`w_a = L_a / \sum_b L_b + 1/h` where all losses are >= 0 and their sum is positive. Losses of mixed sign make that
    line explode or change sign, so there ``mixed_sign`` decides.

    :param signals: ``losses`` ``[A]``, unitless.
    :param h: Unitless, > 0. The floor every agent keeps is ``1/h``; ``None`` means ``A``.
    :param mixed_sign: ``"shift"`` subtracts the minimum, as for rewards; ``"abs"`` takes magnitudes; ``"clip"`` counts
        negative losses as zero; ``"literal"`` applies the line above as it is printed, whatever comes out.
    :return: Weights ``[A]``, summing to ``1 + A/h``. No loss, or all equal where shifted: ``1/A + 1/h``.
    :raises ValueError: if ``h`` is not positive, ``mixed_sign`` is unknown or ``losses`` is missing.

    Source: Holen et al. (2023), algorithm 3. Differs: mixed signs and a sum of zero, undefined there.
    """
    check_choice("mixed_sign", mixed_sign, MIXED_SIGN_CHOICES)
    losses = required(signals, "losses")
    one_sign = mixed_sign == "literal" or float(losses.min()) > 0  # nearly always, and cheaper than the next test
    if not one_sign and bool(has_mixed_signs(losses)):
        losses = GUARDS[mixed_sign](losses)
    return shares(losses) + floor(h, signals.num_agents)


def has_mixed_signs(losses: Tensor) -> Tensor:
    """Whether L-weights need their guard: a negative loss, or no positive one.

    :param losses: ``[..., A]``; NaN is ignored.
    :return: bool ``[...]``.
    """
    return (losses < 0).any(-1) | (losses.nansum(-1) <= 0)
