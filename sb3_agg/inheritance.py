"""What a class that combines a mixin with an algorithm takes, and refusing methods called in place of the mixin's."""

from __future__ import annotations

import inspect

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


def signature_of(cls: type) -> inspect.Signature:
    """What a class takes, where each ``__init__`` passes ``**kwargs`` on to the next one's.

    ``inspect.signature`` shows this for the class: scripts and tools that choose settings by it would leave out all others.
    """
    positional: dict[str, inspect.Parameter] = {}
    by_name: dict[str, inspect.Parameter] = {}
    takes_more = True
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        kinds = set()
        for parameter in list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]:
            kinds.add(parameter.kind)
            if parameter.name in positional | by_name or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if takes_more and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                positional[parameter.name] = parameter
            elif parameter.default is not parameter.empty:  # what has none is given by who passes the others on
                by_name[parameter.name] = parameter.replace(kind=parameter.KEYWORD_ONLY)
        takes_more = takes_more and inspect.Parameter.VAR_POSITIONAL in kinds
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return inspect.Signature([*positional.values(), *by_name.values()])
