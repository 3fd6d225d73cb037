"""What a ``train()`` logged of the aggregation."""

from __future__ import annotations

from typing import Any

MODULE = "default_policy"


def agg(result: dict[str, Any]) -> dict[str, Any]:
    """What the server logged."""
    logged: dict[str, Any] = result["learners"][MODULE]["agg"]
    return logged
