"""What runners need of a cell: the classes that it names, and checks of its settings."""

import inspect
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.environments import check_gymnasium
from rl_agg.study.spec.importing import import_named
from rl_agg.study.spec.study import Cell
from rl_agg.validation import unknown_choice

PLAIN: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
    Mapping: "a mapping",
    list: "a list",
    types.NoneType: "null",
}
"""Types that YAML has, and what they are called."""


def import_system(cell: Cell) -> type[Any]:
    """Import the class of a cell's system.

    :raises StudyError: if the module or the class does not exist, or it is not a class.
    """
    return _import_class(cell.system.system, f"system {cell.system_name!r}")


def wrapped(cell: Cell, env: Any) -> Any:
    """Put the cell's wrappers around an environment, the first innermost.

    :raises StudyError: as :func:`import_system`, or if one is no wrapper.
    """
    import gymnasium as gym  # a host may have no need of it

    where = f"environments.{cell.environment_name}.wrappers"
    for wrapper in cell.environment.wrappers:
        kind: Any = _import_class(wrapper.wrapper, where)
        if not issubclass(kind, gym.Env):
            raise StudyError(f"{where}: {wrapper.wrapper} is no gymnasium.Wrapper")
        env = kind(env, **wrapper.settings)
    return env


@contextmanager
def building(cell: Cell) -> Iterator[None]:
    """Turn whatever a constructor or an environment raises into an error about the cell's settings.

    :raises StudyError: naming the cell and the reason; of an unknown environment, with what to write instead.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, ImportError) or type(error).__module__ == "gymnasium.error":
            check_gymnasium(cell.environment.id or "")
        reason = str(error) if isinstance(error, StudyError) else f"{type(error).__name__}: {error}"
        raise StudyError(f"{cell} cannot be built: {reason}") from error


def check_settings(cell: Cell, reserved: Mapping[str, str], unused: Collection[str]) -> None:
    """Raise if a setting would be given twice, or be ignored.

    :param reserved: Settings that the study itself makes, and its key for each.
    :param unused: Keys of an environment or a system that the cell's runner does not use.
    :raises StudyError: naming it.
    """
    name = import_system(cell).__name__
    for key in unused:
        given = (getattr(cell.environment, key), getattr(cell.system, key, None))
        if any(value not in (None, [], False) for value in given):
            raise StudyError(f"{cell}: {name} does not use {key!r}; leave it out")
    for setting, key in reserved.items():
        if setting in {**cell.environment.settings, **cell.system.settings}:
            raise StudyError(f"{cell}: {setting!r} cannot be set here; the study's key {key!r} sets it")


def arguments(cls: type[Any], method: str) -> set[str]:
    """Names that a method takes, its parents' included as long as each passes on what it does not know."""
    names: set[str] = set()
    for base in cls.__mro__:
        if method not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)[method]).parameters.values())[1:]
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        names |= {parameter.name for parameter in parameters if parameter.kind not in variadic}
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return {name for name in names if not name.startswith("_")}


def check_types(where: str, cls: type[Any], settings: Mapping[str, Any], nullable: Collection[str] = ()) -> None:
    """Raise if a setting is of another type than its annotation allows, where that names plain types only; or is ``None``
    where neither the annotation nor the default is.

    :param where: What comes before a setting's name in messages.
    :param cls: Whose constructor, or its parents', takes the settings.
    :param nullable: Settings that may be ``None`` whatever their annotation.
    :raises StudyError: naming the setting, what it must be, and its value.
    """
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        with suppress(Exception):  # of names that are imported for type checkers alone
            annotations |= typing.get_type_hints(vars(base)["__init__"])
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            nullable = {*nullable, *(name for name in parameters if parameters[name].default is None)}
    for name, value in settings.items():
        annotation = annotations.get(name, Any)
        is_union = isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
        kinds = [typing.get_origin(option) or option for option in (typing.get_args(annotation) if is_union else [annotation])]
        if value is None and (Any in kinds or name in nullable):
            continue
        if all(kind in PLAIN for kind in kinds):
            check_type(f"{where}{name}", value, kinds)
        elif value is None and types.NoneType not in kinds:
            raise StudyError(f"{where}{name} must not be null")


def check_type(name: str, value: Any, kinds: Collection[Any]) -> None:
    """Raise if a value is of none of some types.

    :param name: Of the setting, for the message.
    :param kinds: Some of :data:`PLAIN`.
    :raises StudyError: naming the setting, what it must be, and its value.
    """
    if not any(_is_of(value, kind) for kind in kinds):
        wanted = " or ".join(dict.fromkeys(PLAIN[kind] for kind in kinds))
        raise StudyError(f"{name} must be {wanted}, got {'null' if value is None else repr(value)}")


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the integers
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def extend_path(folders: Collection[str]) -> None:
    """Let this process import what the driver can, such as the user's modules: Ray's workers have a path of their own.

    :param folders: The driver's ``sys.path``.
    """
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def _import_class(path: str, where: str) -> type[Any]:
    module_name, _, name = path.partition(":")
    module = import_named(module_name, f"{where}, {path}")
    found = getattr(module, name, None)
    if found is None:
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and not key.startswith("_")]
        raise StudyError(f"{where}: {module_name} has an {unknown_choice('name', name, classes)}")
    if not inspect.isclass(found):
        raise StudyError(f"{where}: {path} is not a class")
    return found
