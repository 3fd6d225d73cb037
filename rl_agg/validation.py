"""Checks of what users write, with one wording for all errors, where ``name`` is what they call it."""

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

Built = TypeVar("Built")
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def unknown_choice(kind: str, name: object, choices: Collection[str], *, summary: str = "") -> ValueError:
    """Describe a name that is none of the choices, with the nearest one.

    :param kind: What was to be chosen: ``"aggregation"``.
    :param summary: Describes the choices, where they are too many for a list.
    """
    listed = summary or f"choose from {', '.join(sorted(choices))}"
    return ValueError(f"unknown {kind} {name!r}{did_you_mean(name, choices)}; {listed}")


def did_you_mean(name: object, choices: Iterable[str]) -> str:
    """The nearest choice as a question, for the end of a message; empty if none is near."""
    near = difflib.get_close_matches(str(name), choices, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check_choice(kind: str, name: object, choices: Collection[str]) -> None:
    """Raise if a name is none of the choices.

    :param kind: As of :func:`unknown_choice`.
    :raises ValueError: naming the choices and the nearest one.
    """
    if not isinstance(name, str) or name not in choices:
        raise unknown_choice(kind, name, choices)


def check_settings(
    name: str,
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    given: int = 0,
    also: Collection[str] = (),
    complete: bool = False,
) -> None:
    """Check that a function has a parameter for each setting.

    :param function: What will get the settings as keyword arguments.
    :param settings: What the user set.
    :param given: How many of its first parameters are no settings.
    :param also: Settings that the caller takes itself.
    :param complete: Check also that each parameter without a default has a setting.
    :raises ValueError: naming the settings that are unknown, and the choices; or those that are missing.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"settings of {name} must be a mapping, got {settings!r}")
    parameters = list(inspect.signature(function).parameters.values())[given:]
    by_name = {parameter.name: parameter for parameter in parameters if parameter.kind in _BY_NAME}
    known = sorted(by_name.keys() | set(also))
    unknown = sorted(settings.keys() - set(known), key=str)
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        choices = f"choose from {', '.join(known)}" if known else "it has none"
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"{name} has no setting {', '.join(map(repr, unknown))}; {choices}{hint}")
    required = {parameter.name for parameter in by_name.values() if parameter.default is parameter.empty}
    if complete and (missing := sorted(required - settings.keys())):
        raise ValueError(f"{name} needs {', '.join(map(repr, missing))}, got {dict(settings)}")


def build(name: str, kind: Callable[..., Built], settings: Mapping[str, Any], *given: Any) -> Built:
    """Call a constructor with settings that a user wrote.

    :param kind: The constructor.
    :param settings: Its keyword arguments.
    :param given: Arguments before them that are no settings.
    :raises ValueError: if a setting is unknown or one without a default is missing, or as the constructor.
    """
    check_settings(name, kind, settings, given=len(given), complete=True)
    return kind(*given, **settings)


def check_flag(name: str, value: Any) -> None:
    """Check that a value is ``True`` or ``False``.

    :raises ValueError: if it is neither, naming the value.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_count(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    """Check that a value is an integer within bounds.

    :raises ValueError: if not, naming the bounds and the value.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < least or (most is not None and int(value) > most):
        bounds = f">= {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be an integer {bounds}, got {value!r}")


def check_number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Check that a value is a finite number within bounds.

    :param least: It must be this or larger.
    :param above: It must be larger.
    :param most: It must be this or smaller.
    :param below: It must be smaller.
    :raises ValueError: if not, naming the bounds and the value.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not (math.isfinite(value) and least <= float(value) <= most and above < float(value) < below)
    ):
        bounds = {">=": least, ">": above, "<=": most, "<": below}
        wanted = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound))
        raise ValueError(f"{name} must be a finite number {wanted}".rstrip() + f", got {value!r}")


def check_agents(agents: object, what: str) -> None:
    """Check that a value is a sequence of agent indices.

    :param agents: What a user wrote.
    :param what: Who they are, for the message.
    :raises ValueError: if there is none, or one is no integer >= 0.
    """
    listed = list(agents) if isinstance(agents, Iterable) and not isinstance(agents, str) else []
    if not listed or any(isinstance(agent, bool) or not isinstance(agent, Integral) or int(agent) < 0 for agent in listed):
        raise ValueError(f"agents must be numbers >= 0 of those {what}, got {agents!r}")


def check_agents_exist(agents: Collection[int], num_agents: int, verb: str) -> None:
    """Raise if an agent index is out of range.

    :param agents: As checked by :func:`check_agents`.
    :param num_agents: A.
    :param verb: What they would do, for the message.
    :raises ValueError: if an agent's number is A or larger.
    """
    if max(agents) >= num_agents:
        raise ValueError(f"agent {max(agents)} cannot {verb}: agents are numbered 0 to {num_agents - 1}")
