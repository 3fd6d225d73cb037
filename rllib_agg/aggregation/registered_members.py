"""Gates, codecs, rules and other members that users registered, on their way to other processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rl_agg import register_all, registered


class RegisteredMembers(dict[str, dict[str, Any]]):
    """Members by axis and name. Unpickled in another process, they are registered there."""

    def __reduce__(self) -> Any:
        return _register, (dict(self),)


def named_members(settings: Mapping[str, Any]) -> RegisteredMembers:
    """The registered members that some settings name, in any string, those in nested containers included."""
    known = registered()
    if not known:
        return RegisteredMembers()
    names = set(_strings(settings))
    chosen = {axis: {name: own for name, own in members.items() if name in names} for axis, members in known.items()}
    return RegisteredMembers({axis: members for axis, members in chosen.items() if members})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _register(members: dict[str, dict[str, Any]]) -> RegisteredMembers:
    """Add members that this process does not know; a copy within a process changes nothing."""
    here = registered()
    new = {
        axis: {name: own for name, own in added.items() if name not in here.get(axis, {})} for axis, added in members.items()
    }
    register_all(new)
    return RegisteredMembers(members)
