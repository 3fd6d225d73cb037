"""Members of an axis by name, and those that users add."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from rl_agg.validation import unknown_choice

Member = TypeVar("Member")


class Registry(dict[str, Member], Generic[Member]):
    """Members of one axis by name.

    :param axis: What a member is: ``"gate"``.
    :param argument: What users call the choice: ``"communication"``. Names are unique among registries that share it.
    :param members: Those that come with the package.
    """

    def __init__(self, axis: str, argument: str, members: Mapping[str, Member]) -> None:
        super().__init__(members)
        self.axis = axis
        self.argument = argument
        self.added: dict[str, Member] = {}
        """Members that users registered."""
        _REGISTRIES[axis] = self

    def register(self, name: str, member: Member) -> None:
        """Add a member, or replace one that was added before.

        :param name: What users write; letters, digits and underscores.
        :param member: What it stands for.
        :raises ValueError: if the name is not an identifier, or belongs to another member of :attr:`argument`.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"the name of a {self.axis} must be an identifier, got {name!r}")
        for other in _registries().values():
            if other.argument == self.argument and name in other and (other is not self or name not in self.added):
                origin = "was registered before" if name in other.added else "comes with rl-agg"
                raise ValueError(f"{other.axis} {name!r} {origin}; choose another name")
        self[name] = self.added[name] = member

    def find(self, name: object) -> Member:
        """Look a name up.

        :raises ValueError: if it is unknown, naming the choices and the nearest.
        """
        if isinstance(name, type):
            raise class_error(self.argument, name, self)
        if not isinstance(name, str) or name not in self:
            raise unknown_choice(self.argument, name, self)
        return self[name]

    def __reduce__(self) -> Any:
        return _registry_of, (self.axis,)  # there is one in each process


_REGISTRIES: dict[str, Registry[Any]] = {}


def _registries() -> dict[str, Registry[Any]]:
    """Those of all axes, also where their modules have not been imported yet."""
    importlib.import_module("rl_agg.scheme")  # by its name, as it imports this module too
    return _REGISTRIES


def _registry_of(axis: str) -> Registry[Any]:
    return _registries()[axis]


def class_error(argument: str, kind: type, members: Mapping[str, Any]) -> ValueError:
    """Describe a class that was given in place of a name or an instance.

    :param argument: What users call the choice.
    :param kind: The class.
    :param members: Members by name, of which it may be one.
    """
    name = next((name for name, member in members.items() if member is kind), None)
    remedy = f"its name {name!r}" if name else f"an instance, or a name: {', '.join(sorted(members))}"
    return ValueError(f"{argument}={kind.__name__} is a class; give {remedy}")


def check_member(axis: str, base: type, kind: object) -> None:
    """Check a class that a user registers.

    :param axis: What it shall be.
    :param base: What it must derive from, one of :mod:`rl_agg`'s own names.
    :param kind: The class.
    :raises ValueError: if it is no concrete subclass of the base.
    """
    if not isinstance(kind, type) or not issubclass(kind, base) or inspect.isabstract(kind):
        raise ValueError(f"a {axis} must be a concrete subclass of rl_agg.{base.__name__}, got {kind!r}")


def registered() -> dict[str, dict[str, Any]]:
    """Members that users added, by axis and name: what another process needs to know them too."""
    return {axis: dict(registry.added) for axis, registry in _registries().items() if registry.added}


def register_all(members: Mapping[str, Mapping[str, Any]]) -> None:
    """Add members that :func:`registered` gave in another process."""
    for axis, added in members.items():
        for name, member in added.items():
            _registry_of(axis).register(name, member)
