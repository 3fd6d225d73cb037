"""Numbers and names as text for people."""

import math
from collections.abc import Iterable

from rl_agg.statistics import Estimate

UNKNOWN = "n/a"
MOST_NAMES = 8


def in_words(estimate: Estimate, decimals: int | None = None) -> str:
    """``value [low, high]``, all three with the same decimals; without the brackets where the interval is not known."""
    if decimals is None:
        decimals = _decimals_of(estimate)
    value = number(estimate.value, decimals)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{number(estimate.low, decimals)}, {number(estimate.high, decimals)}]"


def number(value: float, decimals: int | None = None) -> str:
    """A number with as many decimals as asked for, or else three or four digits; ``n/a`` for NaN."""
    if math.isnan(value):
        return UNKNOWN
    if decimals is None:
        decimals = _decimals_of(Estimate(value, value, value))
    text = f"{round(value, decimals) + 0.0:,.{decimals}f}"  # adding 0 makes -0 plain 0
    return text.replace(",", "\u202f").replace("-", "\u2212")


def _decimals_of(estimate: Estimate) -> int:
    """Decimals that give the largest of a number and its interval's ends three digits or four; NaN does not count."""
    ends = (estimate.value, estimate.low, estimate.high)
    largest = max((abs(end) for end in ends if not math.isnan(end)), default=0.0)
    if 1e-6 <= largest < 1:
        return 2 - math.floor(math.log10(largest))
    return 0 if largest >= 10_000 else 1 if largest >= 100 else 2


def size(count: float) -> str:
    """Bytes with a unit; ``n/a`` for NaN."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            break
        count /= 1000
    return UNKNOWN if math.isnan(count) else f"{number(count, 0 if unit == 'B' else 1)} {unit}"


def listed(names: Iterable[str]) -> str:
    """``A, B, C``; of many names the first and how many more."""
    names = list(names)
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])
