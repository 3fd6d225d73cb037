"""What agents send to a learner and receive from it, whether or not it crosses a wire. Axis A: agents.

Three counts are kept apart:

- a *message* is one transmission of one agent, whatever it holds;
- *canonical bytes* are what the content needs without framing, 4 bytes for a float32 number unless a codec says less, so that
  algorithms can be compared wherever they run;
- *physical bytes* are what this program really moved between processes, 0 where agents and learner share one. They are counted
  from the buffers that are handed over, never from the size of a pickle.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_agg.validation import check_choice, check_count

SIZES = {"gradients": 4, "parameters": 4, "scalars": 4, "samples": 4, "ids": 2, "transitions": 9}
"""Canonical bytes of one of each kind: float32 numbers, an agent's number, and a transition between cells of a table (two
cells of 2 bytes, an action and whether it was the last in 1, a reward of 4)."""

KINDS = tuple(SIZES)


class Ledger:
    """Count messages and bytes, per agent and in total.

    >>> ledger = Ledger(num_agents=3)
    >>> ledger.upload([True, True, False], gradients=10, scalars=1)
    >>> ledger.messages, ledger.bytes
    (2, 88)

    :param num_agents: A.
    :raises ValueError: if A is not positive.
    """

    def __init__(self, num_agents: int) -> None:
        check_count("num_agents", num_agents, least=1)
        self.messages_per_agent: NDArray[np.int64] = np.zeros(num_agents, dtype=np.int64)
        """Messages that each agent has sent ``[A]``."""
        self._up = {kind: np.zeros(num_agents, dtype=np.int64) for kind in KINDS}  # bytes
        self._down = {kind: np.zeros(num_agents, dtype=np.int64) for kind in KINDS}
        self.physical_bytes = 0
        """Bytes moved between processes, both ways."""

    def upload(
        self,
        times: ArrayLike,
        *,
        agents: ArrayLike | None = None,
        physical_bytes: int = 0,
        encoded: Mapping[str, ArrayLike] | None = None,
        **numbers: ArrayLike,
    ) -> None:
        """Count what agents send.

        :param times: How often each agent sends it ``[A]``, integer or bool.
        :param agents: Numbers of the agents that all this is of, each once; ``None``: all.
        :param physical_bytes: What that moved between processes, all agents together.
        :param encoded: Bytes of each kind in one message, where they are not :data:`SIZES` times the numbers: the same for all
            agents, or ``[A]``.
        :param numbers: How many of each kind of :data:`SIZES` one message holds, the same for all or ``[A]``: ``gradients``,
            ``parameters``, ``scalars``, ``samples``, ``ids``, ``transitions``.
        :raises ValueError: if a kind is unknown, ``times`` is not ``[A]`` or a count is negative.
        """
        rows, often = self._add(self._up, agents, times, physical_bytes, numbers, encoded or {})
        self.messages_per_agent[rows] += often

    def download(
        self,
        times: ArrayLike,
        *,
        agents: ArrayLike | None = None,
        physical_bytes: int = 0,
        encoded: Mapping[str, ArrayLike] | None = None,
        **numbers: ArrayLike,
    ) -> None:
        """Count what agents receive; parameters as for :meth:`upload`. Answers are bytes, but no messages."""
        self._add(self._down, agents, times, physical_bytes, numbers, encoded or {})

    def _add(
        self,
        counts: dict[str, NDArray[np.int64]],
        agents: ArrayLike | None,
        times: ArrayLike,
        physical_bytes: int,
        numbers: Mapping[str, ArrayLike],
        encoded: Mapping[str, ArrayLike],
    ) -> tuple[Any, NDArray[np.int64]]:
        rows = slice(None) if agents is None else np.asarray(agents)
        counted = np.asarray(times)
        num_agents = len(self.messages_per_agent[rows])
        if counted.shape != (num_agents,) or not _are_counts(counted):
            raise ValueError(f"times must be [A] = [{num_agents}] whole numbers, not negative, got {times!r}")
        often = counted.astype(np.int64)
        for kind in (*numbers, *encoded):
            check_choice("kind", kind, KINDS)
        if not all(map(_is_size, (physical_bytes, *numbers.values(), *encoded.values()))):
            raise ValueError(
                f"sizes must be integers >= 0, got {dict(numbers)}, {dict(encoded)} and physical_bytes={physical_bytes!r}"
            )
        for kind, number in numbers.items():
            counts[kind][rows] += often * (SIZES[kind] * np.asarray(number))
        for kind, size in encoded.items():
            counts[kind][rows] += often * np.asarray(size)
        self.physical_bytes += int(physical_bytes)
        return rows, often

    @property
    def messages(self) -> int:
        """Messages sent by all agents."""
        return int(self.messages_per_agent.sum())

    @property
    def bytes(self) -> int:
        """Canonical bytes sent by all agents."""
        return int(self.bytes_per_agent.sum())

    @property
    def bytes_down(self) -> int:
        """Canonical bytes sent to all agents."""
        return int(sum(counts.sum() for counts in self._down.values()))

    @property
    def bytes_per_agent(self) -> NDArray[np.int64]:
        """Canonical bytes that each agent has sent ``[A]``."""
        total: NDArray[np.int64] = np.sum(list(self._up.values()), axis=0)
        return total

    def bytes_of(self, kind: str) -> int:
        """Canonical bytes of one kind sent by all agents.

        :param kind: One of :data:`SIZES`.
        :raises ValueError: if it is none of them.
        """
        check_choice("kind", kind, KINDS)
        return int(self._up[kind].sum())

    def summary(self) -> dict[str, int]:
        """The totals under the names that they are logged by."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "bytes_down": self.bytes_down,
            "physical_bytes": self.physical_bytes,
        }

    def state_dict(self) -> dict[str, Any]:
        """All counts, as plain numbers."""
        return {
            "messages": self.messages_per_agent.tolist(),
            "up": {kind: counts.tolist() for kind, counts in self._up.items()},
            "down": {kind: counts.tolist() for kind, counts in self._down.items()},
            "physical_bytes": self.physical_bytes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`. With fewer agents than were saved, the others leave the totals."""
        num_agents = len(self.messages_per_agent)

        def fitted(counts: list[int]) -> NDArray[np.int64]:
            kept = np.zeros(num_agents, dtype=np.int64)
            kept[: len(counts)] = counts[:num_agents]
            return kept

        self.messages_per_agent = fitted(state["messages"])
        self._up = {kind: fitted(state["up"].get(kind, [])) for kind in KINDS}
        self._down = {kind: fitted(state["down"].get(kind, [])) for kind in KINDS}
        self.physical_bytes = state["physical_bytes"]


def _are_counts(times: NDArray[Any]) -> bool:
    if times.dtype.kind == "b":
        return True
    whole = times.dtype.kind in "uif" and bool((np.isfinite(times) & (times == np.floor(times))).all())
    return whole and not bool((times < 0).any())


def _is_size(size: Any) -> bool:
    if type(size) is int:  # in most cases; and then no array is made
        return size >= 0
    array = np.asarray(size)
    return array.dtype.kind in "ui" and not bool((array < 0).any())
