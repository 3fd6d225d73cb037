"""What a ``train()`` logged of the aggregation."""

from __future__ import annotations

import time
from typing import Any

MODULE = "default_policy"


def agg(result: dict[str, Any]) -> dict[str, Any]:
    """What the server logged."""
    logged: dict[str, Any] = result["learners"][MODULE]["agg"]
    return logged


def agg_of_first_update(algorithm: Any) -> dict[str, Any]:
    """Of an asynchronous algorithm, whose results come when they come, and late on a busy machine."""
    end = time.monotonic() + 180
    while time.monotonic() < end:
        logged: dict[str, Any] | None = algorithm.train().get("learners", {}).get(MODULE, {}).get("agg")
        if logged:
            return logged
    raise AssertionError("no update in three minutes")
