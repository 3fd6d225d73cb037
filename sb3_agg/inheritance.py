"""Refusing classes whose methods would be called in place of the mixin's."""

from __future__ import annotations

from rl_agg.inheritance import blocking
from sb3_agg.patching import is_stock

HOOKED = ("train", "collect_rollouts", "_update_info_buffer", "_setup_learn", "_setup_model")
"""Methods in which the aggregation acts."""
IN_FILES = ("save", "get_parameters", "set_parameters")
"""Methods in which it writes and reads what it remembers."""


def check_overrides(cls: type, mixin: type) -> None:
    """Check that no method of a class keeps the mixin's from being called.

    :param cls: A class that has just been made.
    :param mixin: One of those it derives from.
    :raises TypeError: if one does, naming how to write it instead.
    """
    for kind, name in blocking(cls, mixin, HOOKED + IN_FILES):
        remedy = f"name the mixin first: class {cls.__name__}({mixin.__name__}, {kind.__name__})"
        if issubclass(kind, mixin):
            stock = next(base.__name__ for base in cls.__mro__ if is_stock(base))
            remedy = (
                f"call it, or make {name}() a method of a class My{stock}({stock}) and combine the two: "
                f"class {cls.__name__}({mixin.__name__}, My{stock})"
            )
        outcome = "a file would lack what the agents remember" if name in IN_FILES else "nothing would be aggregated"
        raise TypeError(
            f"{kind.__name__}.{name}() would be called in place of {mixin.__name__}.{name}() and does not call "
            f"super().{name}(), so {outcome}; {remedy}"
        )
