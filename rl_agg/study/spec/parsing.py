"""YAML into typed dataclasses: unknown keys and wrong values raise with one message each."""

import dataclasses
import re
import types
import typing
import unicodedata
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rl_agg.study.errors import StudyError
from rl_agg.validation import unknown_choice

T = TypeVar("T")

MOST_VALUES = 100_000
"""In a file."""

STEERING = frozenset("\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing, or end a line."""

NAMES_NOT_BEGUN_BY = tuple("=+-@")
"""What spreadsheets take for the beginning of a formula."""


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Differs from PyYAML: ``1e-3`` is a number, as in YAML 1.2, and a key that comes twice is an error, where PyYAML would
    silently let the later one win.

    :raises StudyError: naming file and line, if the file cannot be read, is not YAML, has a key twice, or its aliases stand
        for more than :data:`MOST_VALUES` values.
    """
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        loader.name = str(path)  # what errors call it
        value = loader.get_single_data()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise StudyError(f"{path} is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of a date that does not exist, or a number of 5000 digits
        raise StudyError(f"{path} is not a YAML file: {_one_line(error)}") from error
    _check_size(value, path)
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character {chr(error.character)!r} after {error.position} others is not allowed"
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _check_size(value: Any, path: Path) -> None:
    """Refuse a few lines of aliases of aliases, which stand for more than a memory holds."""
    left, found = [value], 0
    while left:
        item = left.pop()
        found += 1
        if found > MOST_VALUES:
            raise StudyError(f"{path} stands for more than {MOST_VALUES} values, its aliases written out")
        if isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list):
            left += item


def dumped(mapping: Any) -> str:
    """Write YAML that :func:`load_yaml` reads as the same again."""
    text: str = yaml.dump(mapping, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read(cls: type[T], raw: Any, where: str) -> T:
    """Fill a dataclass from a mapping, by its annotations.

    :param cls: A dataclass; fields may be scalars, lists, mappings, other dataclasses and unions of these.
        A class may list in ``expanded`` the keys that are gone when it is filled.
    :param raw: What YAML gave; nothing counts as an empty mapping.
    :param where: Names the place in messages.
    :raises StudyError: naming the key and the value, if a key is unknown or missing, or a value is of another type.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise StudyError(f"{where} must be a mapping, got {raw!r}")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    for key in raw:
        if key not in fields:
            raise StudyError(f"{where}: {unknown_choice('key', str(key), [*fields, *getattr(cls, 'expanded', ())])}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in raw:
            raise StudyError(f"{where} needs the key {name!r}")
    annotations = typing.get_type_hints(cls)
    return cls(**{key: _convert(value, annotations[key], f"{where}.{key}") for key, value in raw.items()})


def _convert(value: Any, annotation: Any, where: str) -> Any:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if value is None and types.NoneType in options:  # and not an empty mapping
        return None
    for option in options:
        if _fits(value, option):
            return _build(value, option, where)
    raise StudyError(f"{where} must be {' or '.join(map(_describe, options))}, got {value!r}")


def _fits(value: Any, option: Any) -> bool:
    if option is Any:
        return True
    if dataclasses.is_dataclass(option):
        return value is None or isinstance(value, dict)
    if isinstance(value, bool):  # which Python counts among the integers
        return option is bool
    if option is float:
        return isinstance(value, int | float)
    return isinstance(value, typing.get_origin(option) or option)


def _build(value: Any, option: Any, where: str) -> Any:
    if option is Any:
        return _plain(value, where)
    if dataclasses.is_dataclass(option):
        return read(typing.cast(type[Any], option), value, where)
    if option is float:
        try:
            return float(value)
        except OverflowError as error:
            raise StudyError(f"{where} must be a number below 1e308, got one of {len(str(value))} digits") from error
    if option is str:
        check_text(value, where)
        return value
    if typing.get_origin(option) is list:
        (item,) = typing.get_args(option)
        return [_convert(element, item, f"{where}[{index}]") for index, element in enumerate(value)]
    if typing.get_origin(option) is dict:
        _, item = typing.get_args(option)
        _check_names(value, where)
        return {key: _convert(element, item, f"{where}.{key}") for key, element in value.items()}
    return value


def _plain(value: Any, where: str) -> Any:
    """A setting of any type that a record can hold; YAML also knows dates and sets."""
    if isinstance(value, dict):
        if not all(type(key) is int for key in value):  # numbers may be what a class looks things up by
            _check_names(value, where)
        return {key: _plain(element, f"{where}.{key}") for key, element in value.items()}
    if isinstance(value, list):
        return [_plain(element, f"{where}[{index}]") for index, element in enumerate(value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise StudyError(
        f"{where} must be text, a number, true, false, null, a list or a mapping, got {value!r}; put it in quotes"
    )


def _check_names(mapping: dict[Any, Any], where: str) -> None:
    for key in mapping:
        if not isinstance(key, str) or not key.strip():
            raise StudyError(f"{where}: a name must be text, got {key!r}; put it in quotes")
        check_text(key, where)
        if key.startswith(NAMES_NOT_BEGUN_BY):
            raise StudyError(
                f"{where}: a name must not begin with {key[0]!r}, as a formula in a spreadsheet does, got {key!r}"
            )


def check_text(text: str, where: str) -> None:
    """Raise ``StudyError`` if a text has characters that steer a terminal or the direction of writing."""
    for character in text:
        if unicodedata.category(character) == "Cc" or character in STEERING:
            raise StudyError(f"{where} must have no control characters, got {text!r}")


def _describe(option: Any) -> str:
    names = {int: "an integer", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    if option in names:
        return names[option]
    if typing.get_origin(option) is list:
        return f"a list ({_describe(typing.get_args(option)[0])} each)"
    return "a mapping"


class _Loader(yaml.SafeLoader):
    """YAML with numbers as in YAML 1.2, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):  # as an unquoted {h}
                raise yaml.constructor.ConstructorError(
                    None, None, "a name must be text; put it in quotes", key_node.start_mark
                )
            # Not the keys that a merge (<<) brings: overriding those is what merging is for
            if key_node.tag != "tag:yaml.org,2002:merge" and key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key_node.value!r} comes twice", key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=True)  # at once, which finds what contains itself

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        text = str(super().construct_scalar(node))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")  # JSON writes an emoji as two halves


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that would be read as a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )
