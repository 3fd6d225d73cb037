"""Methods that stand before a mixin's in the order of classes, and do not call them."""

from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any


def blocking(cls: type, mixin: type, names: tuple[str, ...]) -> Iterator[tuple[type, str]]:
    """Classes and methods of theirs that would be called in place of a mixin's.

    :param mixin: One of those that ``cls`` derives from.
    :param names: Of the mixin's methods.
    """
    order = cls.__mro__
    for kind in order[: order.index(mixin)]:
        for name in names:
            if name in vars(kind) and not _passes_on(kind, name):
                yield kind, name


def _passes_on(kind: type, name: str) -> bool:
    """Whether a method's code names the method itself, there or in other methods of the class that it names."""
    methods = {key: item for key, item in vars(kind).items() if isinstance(item, FunctionType)}
    if name not in methods:
        return True  # who knows
    reached, left = {name}, [name]
    while left:
        named = _names(methods[left.pop()])
        if name in named:
            return True
        left += (named & methods.keys()) - reached
        reached |= named
    return False


def _names(function: FunctionType, callers: tuple[Any, ...] = ()) -> set[str]:
    """What is named in the code of a function, and of functions that it wraps."""
    names = _names_in(function.__code__)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # empty as yet
            wrapped = cell.cell_contents
            if isinstance(wrapped, FunctionType) and wrapped not in callers:
                names |= _names(wrapped, (*callers, function))
    return names


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(item) for item in code.co_consts if isinstance(item, CodeType))
    return set(code.co_names).union(*inner)
