"""How systems are distinguished in the page and the figures, by their number."""

LIGHT = ("#1b1f27", "#0051b2", "#e37400", "#008666", "#af6a9f", "#3698ee", "#af4f00", "#732a10")
DARK = ("#f2f2f2", "#56a5ec", "#e8743b", "#1fe9a2", "#d99eb6", "#4071d0", "#f0e442", "#a7583a")
"""On a light and on a dark ground. Any two look different (CIEDE2000 of 15 and more) to everybody, also without one kind of
cone, and each stands out from its ground (contrast of 3 and more)."""
OUTCOMES = {"better": ("#0058b2", "#56a5ec"), "worse": ("#c44e00", "#f08a4b"), "not established": ("#6b7280", "#9aa1ad")}
"""On a light and on a dark ground, of a difference from the baseline."""
INK, SOFT, GRID = "#1b1f27", "#565c68", "#e9eaec"
"""Of text, axes and grids on a light ground."""
DASHES = ((), (5.0, 2.0), (2.2, 1.4), (5.0, 1.6, 1.2, 1.6), (1.2, 1.2))
"""Lengths of strokes and gaps in line widths. Their number and that of colours have no common divisor, so that 40 systems
look different."""


def style_of(number: int) -> tuple[int, int]:
    """Which colour and which dashes."""
    return number % len(LIGHT), number % len(DASHES)


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart as little as possible.

    :param positions: Where each would be.
    :param gap: The least distance between two, less only where they do not fit between ``low`` and ``high``.
    """
    order = sorted(range(len(positions)), key=positions.__getitem__)
    gap = min(gap, (high - low) / max(len(order) - 1, 1))
    placed = dict.fromkeys(order, low)
    for rank, number in enumerate(order):
        before = placed[order[rank - 1]] + gap if rank else low
        placed[number] = max(before, positions[number])
    limit = high
    for number in reversed(order):
        placed[number] = limit = min(placed[number], limit)
        limit -= gap
    return [placed[number] for number in range(len(positions))]
