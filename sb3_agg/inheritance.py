"""Methods that stand before the mixin's in the order of classes, and whether they pass on to them."""

from __future__ import annotations

from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

from sb3_agg.patching import is_stock

HOOKED = ("train", "collect_rollouts", "_update_info_buffer", "_setup_learn", "_setup_model")
"""Methods in which the aggregation acts."""


def check_overrides(cls: type, mixin: type) -> None:
    """Check that no method of a class keeps the mixin's from being called.

    :param cls: A class that has just been made.
    :param mixin: One of those it derives from.
    :raises TypeError: if one does, naming how to write it instead.
    """
    order = cls.__mro__
    for kind in order[: order.index(mixin)]:
        for name in HOOKED:
            if name in vars(kind) and not _passes_on(kind, name):
                remedy = f"name the mixin first: class {cls.__name__}({mixin.__name__}, {kind.__name__})"
                if issubclass(kind, mixin):
                    stock = next(base.__name__ for base in order if is_stock(base))
                    remedy = (
                        f"call it, or make {name}() a method of a class My{stock}({stock}) and combine the two: "
                        f"class {cls.__name__}({mixin.__name__}, My{stock})"
                    )
                raise TypeError(
                    f"{kind.__name__}.{name}() would be called in place of {mixin.__name__}.{name}() and does not call "
                    f"super().{name}(), so nothing would be aggregated; {remedy}"
                )


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
