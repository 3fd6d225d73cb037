"""Temporary replacements of methods, and whether a method is the stock one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def temporarily(item: Any, **attributes: Any) -> Iterator[None]:
    """Temporarily override attributes of an object; its class is left alone.

    :param item: Any object with a ``__dict__``.
    :param attributes: By name. ``__setattr__`` is bypassed, which modules reserve for parameters.
    """
    own = vars(item)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)


def is_stock(item: Any) -> bool:
    """Whether SB3 or sb3-contrib defines a class or a function."""
    package: str = item.__module__.partition(".")[0]
    return package in ("stable_baselines3", "sb3_contrib")
