"""Entries of a study with a ``matrix``, which stand for one entry per combination of its values."""

import itertools
import math
import re
from typing import Any

from rl_agg.study.errors import StudyError
from rl_agg.validation import unknown_choice

MATRIX = "matrix"
MOST_ENTRIES = 10_000
"""That one matrix stands for."""
_PLACE = re.compile(r"\{(\w+)\}")


def expand(entries: Any, where: str) -> Any:
    """Replace each entry that has a ``matrix`` by one for each combination of its values.

    ``{"h = {h}": {"matrix": {"h": [2, 8]}, "settings": {"h": "{h}"}}}`` becomes
    ``{"h = 2": {"settings": {"h": 2}}, "h = 8": {"settings": {"h": 8}}}``: a text that consists of one
    placeholder becomes the value itself, within other text a placeholder becomes its text.

    :param entries: A mapping of names to entries, as YAML gave it; anything else is returned unchanged.
    :param where: Names the place in messages.
    :raises StudyError: if a matrix is not a mapping of lists, a placeholder is none of its keys, or two entries get one name.
    """
    if not isinstance(entries, dict):
        return entries
    expanded: dict[Any, Any] = {}
    for name, entry in entries.items():
        if not (isinstance(entry, dict) and MATRIX in entry):
            _add(expanded, name, entry, where)
            continue
        rest = {key: value for key, value in entry.items() if key != MATRIX}
        combinations = _combinations(entry[MATRIX], f"{where}.{name}.{MATRIX}")
        if where == "systems" or "id" in rest:  # otherwise an environment's name is its id
            _check_used(entry[MATRIX], name, rest, where)
        for values in combinations:
            filled = _filled(name, values, where)
            _add(expanded, str(filled) if isinstance(name, str) else filled, _filled(rest, values, f"{where}.{name}"), where)
    return expanded


def _combinations(matrix: Any, where: str) -> list[dict[str, Any]]:
    is_valid = isinstance(matrix, dict) and matrix and all(isinstance(values, list) and values for values in matrix.values())
    if not is_valid or not all(isinstance(name, str) for name in matrix):
        raise StudyError(f"{where} must be a mapping of names to lists of values, got {matrix!r}")
    if (count := math.prod(map(len, matrix.values()))) > MOST_ENTRIES:
        raise StudyError(f"{where} stands for {count} entries; at most {MOST_ENTRIES}")
    return [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]


def _check_used(matrix: dict[str, Any], name: Any, rest: dict[Any, Any], where: str) -> None:
    """Raise if entries would differ in nothing but their names."""
    for key in set(_PLACE.findall(str(name))) - set(_PLACE.findall(str(rest))):
        if len(matrix.get(key, ())) > 1:
            raise StudyError(
                f"{where}.{name}: {key!r} is used in the name alone, so its values make identical entries; write {{{key}}} in "
                "the settings too"
            )


def _add(expanded: dict[Any, Any], name: Any, entry: Any, where: str) -> None:
    if name in expanded:
        raise StudyError(f"{where}: {name!r} comes twice; name every value of the matrix in it, as in 'h = {{h}}'")
    expanded[name] = entry


def _filled(value: Any, values: dict[str, Any], where: str) -> Any:
    if isinstance(value, dict):
        keys = {key: _filled(key, values, where) for key in value}
        for key, filled in keys.items():
            if isinstance(filled, list | dict):
                raise StudyError(f"{where}: a name must be text, got {filled!r} for {key!r}")
        return {keys[key]: _filled(inner, values, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values, f"{where}[{index}]") for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    for place in _PLACE.findall(value):
        if place not in values:
            raise StudyError(f"{where}: {unknown_choice('placeholder', place, values)}")
    whole = _PLACE.fullmatch(value)
    return values[whole[1]] if whole else _PLACE.sub(lambda match: str(values[match[1]]), value)
