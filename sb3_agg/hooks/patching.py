"""Other methods for an object, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(item: Any, **replacements: Any) -> Iterator[None]:
    """Let an object have other attributes inside, and afterwards what it had of its own before.

    :param item: Its class is left alone.
    :param replacements: By name. They are put past ``__setattr__``, which modules have for parameters.
    """
    own = vars(item)
    before = {name: own[name] for name in replacements if name in own}
    own.update(replacements)
    try:
        yield
    finally:
        for name in replacements:
            del own[name]
        own.update(before)
