r"""A budget of bytes that a gate or a codec is steered by.

With b the bytes that all agents together sent in an update, B the budget and v the value of the setting,

.. math:: v \leftarrow v \, e^{\pm g \min(b/B - 1,\; 4)}

with the sign by which fewer bytes are sent where b > B: an integral controller of :math:`\log v`. Where it settles, the mean
of b is B, as the mean of b/B - 1 is 0 there. v stays within the setting's bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rl_agg.validation import check_number

GAIN = 0.25
"""g: of bytes in proportion to v, a quarter of an error is left out in each update."""

LARGEST_EXCESS = 4.0
"""An update that sends more than five budgets counts as one of five: the first, say, in which every agent sends."""


class Knob(NamedTuple):
    """A setting that decides about how many bytes are sent.

    :param name: Of the setting.
    :param value: Now.
    :param least: > 0.
    :param most: Finite.
    :param sends_more: Whether larger values send more.
    """

    name: str
    value: float
    least: float
    most: float
    sends_more: bool


def check_budget(bytes_per_update: Any) -> None:
    """Check that a budget is a number of bytes.

    :raises ValueError: if it is not positive and finite.
    """
    check_number("budget_bytes_per_update", bytes_per_update, above=0)


class ByteBudget:
    """Follows a budget.

    :param bytes_per_update: B, of all agents together, > 0.
    :param knob: What is moved, from its value on.
    """

    def __init__(self, bytes_per_update: float, knob: Knob) -> None:
        self._budget, self._knob = bytes_per_update, knob
        self.value = min(max(float(knob.value), knob.least), knob.most)
        """v."""
        self._num_bytes = 0.0  # since the last change
        self._num_updates = 0

    @property
    def name(self) -> str:
        """Of the setting that is moved."""
        return self._knob.name

    def note(self, num_bytes: float) -> None:
        """Note what was sent in an exchange."""
        self._num_bytes += num_bytes

    def end_update(self, *, has_exchanged: bool) -> bool:
        """Move the setting; where agents exchange every few updates, by the mean since the last exchange.

        :param has_exchanged: Whether there was an exchange in this update.
        :return: Whether it was moved.
        """
        self._num_updates += 1
        if not has_exchanged:
            return False
        excess = self._num_bytes / self._num_updates / self._budget - 1.0
        sign = -1.0 if self._knob.sends_more else 1.0
        moved = self.value * math.exp(sign * GAIN * min(excess, LARGEST_EXCESS))
        self.value = min(max(moved, self._knob.least), self._knob.most)
        self._num_bytes, self._num_updates = 0.0, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """v, and what was sent since it was last changed."""
        return {"name": self.name, "value": self.value, "num_bytes": self._num_bytes, "num_updates": self._num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; that of another setting is ignored."""
        if state["name"] == self.name:
            self.value = min(max(state["value"], self._knob.least), self._knob.most)
            self._num_bytes, self._num_updates = state["num_bytes"], state["num_updates"]
