"""When agents exchange something."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from rl_agg.payloads.base import CONTENTS, VECTORS
from rl_agg.registry import Registry, check_member, class_error
from rl_agg.validation import build, check_count, unknown_choice


class Schedule(ABC):
    """After which steps agents exchange; subclass it for a schedule of your own.

    A step is one of the optimiser where gradients are exchanged, which are accumulated in between; an update (a rollout with
    all its epochs) where parameters are; and an episode of every agent where scores or transitions are.
    """

    payloads: ClassVar[frozenset[str]] = VECTORS
    """What it can time, by the payload's ``content``."""

    @abstractmethod
    def due(self, num_steps: int, since_last: int) -> bool:
        """Whether agents exchange now.

        :param num_steps: Steps since the start, this one included.
        :param since_last: Steps since the last exchange, this one included.
        """


@dataclass(frozen=True)
class EveryStep(Schedule):
    """Exchange at every step."""

    payloads = frozenset(CONTENTS)

    def due(self, num_steps: int, since_last: int) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class Interval(Schedule):
    """Exchange every ``interval`` steps.

    :param interval: >= 1.
    :raises ValueError: if it is not an integer >= 1.
    """

    interval: int

    def __post_init__(self) -> None:
        check_count("interval", self.interval, least=1)

    def due(self, num_steps: int, since_last: int) -> bool:
        """Once that many steps have passed."""
        return since_last >= self.interval


@dataclass(frozen=True)
class OnArrival(Schedule):
    """Exchange whenever an agent's message arrives, with this one agent: of asynchronous algorithms."""

    payloads = frozenset({"gradients"})

    def due(self, num_steps: int, since_last: int) -> bool:
        """Always."""
        return True


SCHEDULES: Registry[type[Schedule]] = Registry(
    "schedule", "interval", {"every_step": EveryStep, "interval": Interval, "on_arrival": OnArrival}
)
"""Schedules by name."""


def register_schedule(name: str, schedule: type[Schedule]) -> None:
    """Let ``interval=name`` stand for a schedule.

    :param name: What users write.
    :param schedule: Built as ``schedule()``.
    :raises ValueError: if the name is taken or not an identifier, or ``schedule`` is not a concrete subclass of
        :class:`Schedule`.
    """
    check_member("schedule", Schedule, schedule)
    SCHEDULES.register(name, schedule)


def make_schedule(interval: Any) -> Schedule:
    """Build what ``interval=`` asks for.

    :param interval: Steps between two exchanges, a name of :data:`SCHEDULES`, or a schedule.
    :raises ValueError: if it is none of these.
    """
    if isinstance(interval, Schedule):
        return interval
    if isinstance(interval, type):
        raise class_error("interval", interval, SCHEDULES)
    if isinstance(interval, str):
        names = SCHEDULES.keys() - {"interval"}  # which is a number
        if interval not in names:
            raise unknown_choice("interval", interval, [*names, "a number >= 1"])
        return build(interval, SCHEDULES[interval], {})
    check_count("interval", interval, least=1)
    return EveryStep() if interval == 1 else Interval(int(interval))
