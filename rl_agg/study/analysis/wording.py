"""Numbers and names as text for people."""

import math
import re
from collections.abc import Iterable

from rl_agg.statistics import Estimate

UNKNOWN = "n/a"
MOST_NAMES = 8
LONGEST_LABEL = 32
"""Letters of a system's name in a chart."""
SMALLEST, LARGEST = 1e-4, 1e7
"""Between which a number is written without a power of ten."""


def in_words(estimate: Estimate, decimals: int | None = None) -> str:
    """``value [low, high]``, all three with the same decimals; without the brackets where the interval is not known."""
    return _written("{} [{}, {}]", estimate, _spec_of(estimate, 3) if decimals is None else f",.{decimals}f")


def in_short(estimate: Estimate, decimals: int | None = None, sign: str = "") -> str:
    """``value, 95 % CI low to high``, a digit less each unless decimals are given.

    :param sign: ``+`` writes also a positive value's.
    """
    spec = _spec_of(estimate, 2) if decimals is None else f",.{decimals}f"
    return _written("{}, 95\u00a0% CI {} to {}", estimate, spec, sign)


def number(value: float, decimals: int | None = None, sign: str = "") -> str:
    """A number with as many decimals as asked for, or else three or four digits; ``n/a`` for NaN."""
    return _written("{}", Estimate(value, math.nan, math.nan), None if decimals is None else f",.{decimals}f", sign)


def _written(pattern: str, estimate: Estimate, spec: str | None, sign: str = "") -> str:
    """Fill in a number and its interval's ends, or the number alone where these are not known."""
    if math.isnan(estimate.value):
        return UNKNOWN
    spec = spec or _spec_of(estimate, 3)
    shown = [_plain(f"{estimate.value:{sign}{spec}}"), *(_plain(f"{end:{spec}}") for end in (estimate.low, estimate.high))]
    return shown[0] if math.isnan(estimate.low) else pattern.format(*shown)


def _plain(text: str) -> str:
    """With typographic signs; zero has neither a sign nor a power of ten."""
    text = re.sub(r"^[+-]?([0.]+)(e.*)?$", r"\1", text)
    return re.sub(r"e\+?(-?)0*", r"e\1", text).replace(",", "\u202f").replace("-", "\u2212")


def _spec_of(estimate: Estimate, digits: int) -> str:
    """A format that gives the largest of a number and its interval's ends so many digits or one more; NaN does not count."""
    ends = (estimate.value, estimate.low, estimate.high)
    largest = max((abs(end) for end in ends if not math.isnan(end)), default=0.0)
    if largest >= LARGEST or 0 < largest < SMALLEST:
        return f".{digits - 1}e"
    power = math.floor(math.log10(largest)) if 0 < largest < 1 else 0 if largest < 100 else 1 if largest < 10_000 else 2
    return f",.{max(digits - 1 - power, 0)}f"


def size(count: float) -> str:
    """Bytes with a unit; ``n/a`` for NaN."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000 or unit == "TB":
            break
        count /= 1000
    return UNKNOWN if math.isnan(count) else f"{number(count, 0 if unit == 'B' else 1)} {unit}"


def cut(text: str, letters: int) -> str:
    """A text, shortened where it has more letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def listed(names: Iterable[str]) -> str:
    """``A, B, C``; of many names the first and how many more."""
    names = list(names)
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])
