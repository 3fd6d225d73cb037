"""Temporary replacements of methods, and whether a method is the stock one."""

from __future__ import annotations

from typing import Any


class temporarily:
    """Temporarily override attributes of an object; its class is left alone.

    :param item: Any object with a ``__dict__``.
    :param attributes: By name. ``__setattr__`` is bypassed, which modules reserve for parameters.

    A class, as a generator's context manager takes three times as long.
    """

    __slots__ = ("_attributes", "_before", "_own")

    def __init__(self, item: Any, **attributes: Any) -> None:
        self._own = vars(item)
        self._attributes = attributes
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        own = self._own
        self._before = {name: own[name] for name in self._attributes if name in own}
        own.update(self._attributes)

    def __exit__(self, *error: object) -> None:
        for name in self._attributes:
            del self._own[name]
        self._own.update(self._before)


def is_stock(item: Any) -> bool:
    """Whether SB3 or sb3-contrib defines a class or a function, and nothing has been put around it."""
    package: str = item.__module__.partition(".")[0]
    return package in ("stable_baselines3", "sb3_contrib") and not hasattr(item, "__wrapped__")
