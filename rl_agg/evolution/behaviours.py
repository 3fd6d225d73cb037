"""What characterises an agent's behaviour in an episode. Axes: B episodes, k active ones, T steps, D observation numbers, N
numbers.

Observations are rows of numbers, boxes flattened and discrete ones one-hot, see
:class:`~rl_agg.population.spaces.ObservationEncoder`.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rl_agg.validation import unknown_choice

Array = NDArray[np.float32]

Behaviour = str | Callable[[Array], Any] | None
"""A name of :data:`RECORDERS`; ``behaviour(observations) -> numbers [N]`` of one episode, whose observations are ``[T + 1,
D]``, the last one included; or ``None``: ``final`` for a Box, ``mean`` for Discrete observations."""


class Recorder(Protocol):
    """Sees what the agents see, and says how they behaved."""

    def add(self, active: NDArray[np.int64], observations: Array) -> None:
        """Take the observations ``[k, D]`` of the active episodes ``[k]``."""

    def behaviours(self) -> Array:
        """Of each episode ``[B, N]``."""


class FinalObservation:
    """The last observation.

    :param num_episodes: B.
    :param size: D.
    """

    def __init__(self, num_episodes: int, size: int) -> None:
        self._last = np.zeros((num_episodes, size), dtype=np.float32)

    def add(self, active: NDArray[np.int64], observations: Array) -> None:
        """Keep them."""
        self._last[active] = observations

    def behaviours(self) -> Array:
        """``[B, D]``."""
        return self._last


class MeanObservation:
    """The mean of all observations: of Discrete ones, the share of steps in each.

    :param num_episodes: B.
    :param size: D.
    """

    def __init__(self, num_episodes: int, size: int) -> None:
        self._sums, self._counts = np.zeros((num_episodes, size)), np.zeros(num_episodes)

    def add(self, active: NDArray[np.int64], observations: Array) -> None:
        """Add them up."""
        self._sums[active] += observations
        self._counts[active] += 1

    def behaviours(self) -> Array:
        """``[B, D]``."""
        return (self._sums / self._counts[:, None]).astype(np.float32)


class OwnBehaviour:
    """What a function makes of an episode's observations.

    :param num_episodes: B.
    :param function: See :data:`Behaviour`.
    """

    def __init__(self, num_episodes: int, function: Callable[[Array], Any]) -> None:
        self._num_episodes, self._function = num_episodes, function
        self._owners: list[NDArray[np.int64]] = []
        self._rows: list[Array] = []

    def add(self, active: NDArray[np.int64], observations: Array) -> None:
        """Keep them."""
        self._owners.append(active)
        self._rows.append(observations.copy())

    def behaviours(self) -> Array:
        """``[B, N]``.

        :raises ValueError: if the function returns no numbers, or not always as many.
        """
        owners = np.concatenate(self._owners)
        order = np.argsort(owners, kind="stable")
        ends = np.searchsorted(owners[order], np.arange(1, self._num_episodes))
        found = [self._function(rows) for rows in np.split(np.concatenate(self._rows)[order], ends)]
        try:
            rows = np.array(found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"behaviour must return equally many numbers for every episode: {error}") from error
        if rows.ndim != 2 or not rows.size:
            raise ValueError(f"behaviour must return a vector of numbers for every episode, got {found[0]!r}")
        return rows


RECORDERS: dict[str, Callable[[int, int], Recorder]] = {"final": FinalObservation, "mean": MeanObservation}
"""By name."""


def check_behaviour(behaviour: Behaviour) -> None:
    """Raise if it is none.

    :raises ValueError: naming the choices.
    """
    if behaviour is not None and not callable(behaviour) and (not isinstance(behaviour, str) or behaviour not in RECORDERS):
        raise unknown_choice("behaviour", behaviour, [*RECORDERS, "a function of an episode's observations"])


def make_recorder(behaviour: Behaviour, num_episodes: int, size: int, *, is_discrete: bool) -> Recorder:
    """What records the behaviour of some episodes.

    :param behaviour: See :data:`Behaviour`.
    :param num_episodes: B.
    :param size: D.
    :param is_discrete: Whether observations are.
    """
    if callable(behaviour):
        return OwnBehaviour(num_episodes, behaviour)
    name = behaviour or ("mean" if is_discrete else "final")
    return RECORDERS[name](num_episodes, size)
