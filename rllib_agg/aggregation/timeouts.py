"""How long env runners are waited for."""

from __future__ import annotations

import math
import time

from rl_agg.validation import check_number

SECONDS_BETWEEN_PROBES = 0.1
"""Of env runners that are being restarted."""


def check_timeout(seconds: float | None) -> None:
    """Raise if ``sample_timeout_s`` is not above 0; ``None`` waits without limit.

    :raises ValueError: naming the value.
    """
    if seconds is not None:
        check_number("sample_timeout_s", seconds, above=0)


def deadline_of(seconds: float | None) -> float:
    """When ``sample_timeout_s`` will be over, by :func:`time.monotonic`."""
    return math.inf if seconds is None else time.monotonic() + seconds
