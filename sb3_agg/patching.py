"""Temporary replacements of methods, and whether a method is the stock one."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_LOCK = threading.Lock()


class temporarily:
    """Temporarily override attributes of an object; its class is left alone.

    :param item: Any object; one without a ``__dict__`` is of a subclass meanwhile, as it has no place for other attributes.
    :param attributes: By name. ``__setattr__`` is bypassed, which modules reserve for parameters.

    A class, as a generator's context manager takes three times as long.
    """

    __slots__ = ("_attributes", "_before", "_item", "_own")

    def __init__(self, item: Any, **attributes: Any) -> None:
        self._item, self._own = item, getattr(item, "__dict__", None)
        self._attributes = attributes
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        own = self._own
        if own is None:
            kind = type(self._item)
            members = {name: staticmethod(value) if callable(value) else value for name, value in self._attributes.items()}
            self._before = {"__class__": kind}
            self._item.__class__ = type(kind.__name__, (kind,), {"__slots__": (), **members})
            return
        self._before = {name: own[name] for name in self._attributes if name in own}
        own.update(self._attributes)

    def __exit__(self, *error: object) -> None:
        if self._own is None:
            self._item.__class__ = self._before["__class__"]
            return
        for name in self._attributes:
            del self._own[name]
        self._own.update(self._before)


class _ByThread:
    """A function that threads may replace, each for its own calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.num_inside = 0
        self.own = threading.local()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.own, "function", self.function)(*args, **kwargs)


@contextmanager
def in_this_thread(module: ModuleType, name: str, instead: Callable[..., Any]) -> Iterator[None]:
    """Temporarily replace a function of a module, for calls in this thread alone: other models may learn in other threads.

    :param module: Where the function is looked up.
    :param name: The function's.
    :param instead: Called with what it replaces, and then its arguments.
    """
    with _LOCK:
        shared = getattr(module, name)
        if not isinstance(shared, _ByThread):
            shared = _ByThread(shared)
            setattr(module, name, shared)
        shared.num_inside += 1
    before = getattr(shared.own, "function", shared.function)
    shared.own.function = functools.partial(instead, before)
    try:
        yield
    finally:
        shared.own.function = before
        with _LOCK:
            shared.num_inside -= 1
            if not shared.num_inside:
                setattr(module, name, shared.function)


def is_stock(item: Any) -> bool:
    """Whether SB3 or sb3-contrib defines a class or a function, and nothing has been put around it."""
    package: str = item.__module__.partition(".")[0]
    return package in ("stable_baselines3", "sb3_contrib") and not hasattr(item, "__wrapped__")
