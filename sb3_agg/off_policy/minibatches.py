"""Minibatches of a replay buffer with the agent of every sample. Axes: A agents, T steps, B samples of a minibatch.

SB3's replay buffers keep arrays ``[T, A, ...]`` and read them at a row and a column for each sample. The column is its agent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from sb3_agg.patching import is_stock, temporarily
from sb3_agg.samples import fields_of, has_rows, with_fields

Columns = NDArray[np.int64]


class Batch:
    """Whose samples a minibatch holds.

    :param agents: ``[B]``.
    :param counts: Samples of each agent ``[A]``.
    :param equal_parts: Whether each agent has as many, agent by agent.
    """

    def __init__(self, agents: Tensor, counts: Tensor, *, equal_parts: bool) -> None:
        self.agents = agents
        self.counts = counts
        self.equal_parts = equal_parts
        self.masked: Tensor | None = None
        """Agents with a NaN or infinite sample among these ``[A]``, bool; the networks see other agents' samples instead."""
        self.losses: Tensor | None = None
        """The critics' loss of each sample ``[B]``, once it is known."""
        self.weights: tuple[Tensor, Tensor] | None = None
        """The agents' weights, once they are known, and whose count, each ``[A]``."""

    def mean_per_agent(self, values: Tensor) -> Tensor:
        """Average ``[B]`` over each agent's samples ``[A]``; NaN for agents without samples."""
        if self.equal_parts:
            return values.view(len(self.counts), -1).mean(1)
        return values.new_zeros(len(self.counts)).index_add_(0, self.agents, values) / self.counts


class ReplayMinibatches:
    """Replace a replay buffer's ``sample`` and keep the agent of each sample in the current minibatch.

    :param buffer: A replay buffer of A columns.
    :param stratified: Draw as many samples of each agent, instead of any sample as likely as any other.
    :raises ValueError: if ``sample()`` is not SB3's and would not be what is asked.
    """

    batch: Batch | None = None
    """The current minibatch's."""

    def __init__(self, buffer: ReplayBuffer, *, stratified: bool) -> None:
        self.buffer = buffer
        self.stratified = stratified
        self._sample = buffer.sample
        self._columns: Columns = np.empty(0, dtype=np.int64)  # of the last minibatch
        self._served: Batch | None = None
        self._arrays = [name for name, item in vars(buffer).items() if _is_of_agents(item, buffer)]
        self._draw = self._drawn_by_buffer
        if stratified:
            self._draw = self._drawn_of_episodes if isinstance(buffer, HerReplayBuffer) else self._drawn_in_parts
            for method in (type(buffer).sample, type(buffer)._get_samples):
                if not is_stock(method):
                    raise ValueError(
                        f"minibatches='stratified' would be drawn in place of those of {method.__qualname__}(); choose "
                        "minibatches='stock', or a replay_buffer_class that draws as SB3's"
                    )

    @contextmanager
    def served(self) -> Iterator[None]:
        """Temporarily serve these minibatches by the buffer's ``sample``."""
        with temporarily(self.buffer, sample=self.sample):
            yield

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Draw a minibatch as the buffer does, and note whose samples it holds."""
        samples, columns = self._draw(batch_size, env)
        batch = self.batch = self._batch(columns)
        if _is_finite(samples):
            return samples
        bad = ~_finite_rows(samples, len(columns))
        batch.masked = torch.zeros_like(batch.counts, dtype=torch.bool)
        batch.masked[batch.agents[bad]] = True
        good = (~batch.masked[batch.agents]).nonzero()[:, 0]
        if not len(good):
            return _map(samples, len(columns), _without_gaps)  # no step is taken with it
        rows = torch.arange(len(bad), device=bad.device)
        replaced = batch.masked[batch.agents]
        rows[replaced] = good[rows[: int(replaced.sum())] % len(good)]
        return _map(samples, len(columns), partial(_taken, rows=rows))

    def _batch(self, columns: Columns) -> Batch:
        num_agents = self.buffer.n_envs
        if self._served is not None and columns is self._columns:  # the same draw of columns as before
            return Batch(self._served.agents, self._served.counts, equal_parts=self._served.equal_parts)
        counts = np.bincount(columns, minlength=num_agents)
        in_order = bool((columns[1:] >= columns[:-1]).all())
        batch = Batch(
            torch.as_tensor(columns, device=self.buffer.device),
            torch.as_tensor(counts, device=self.buffer.device),
            equal_parts=in_order and bool((counts == counts[0]).all()),
        )
        self._columns, self._served = columns, batch
        return batch

    # SB3's own draw -------------------------------------------------------------------------------------------------------

    def _drawn_by_buffer(self, batch_size: int, env: Any) -> tuple[Any, Columns]:
        read: list[Columns] = []
        with temporarily(self.buffer, actions=_Read(self.buffer.actions, read.append)):
            samples = self._sample(batch_size, env)
        columns = np.concatenate(read) if read else np.empty(0, dtype=np.int64)
        if len(columns) != len(samples.rewards):
            raise ValueError(
                f"{type(self.buffer).__name__} must read actions[row, column] for each of its samples, or their agents are "
                "unknown"
            )
        return samples, columns

    # As many of each agent ------------------------------------------------------------------------------------------------

    def _drawn_in_parts(self, batch_size: int, env: Any) -> tuple[Any, Columns]:
        """Draw rows as SB3 does, which may be any agent's, and read them in other columns."""
        columns = self._parts(batch_size)
        own = vars(self.buffer)
        with temporarily(self.buffer, **{name: _read(own[name], columns) for name in self._arrays}):
            return self._sample(batch_size, env), columns

    def _parts(self, batch_size: int) -> Columns:
        if self._served is None or len(self._columns) != batch_size:
            return np.sort(np.arange(batch_size) % self.buffer.n_envs)
        return self._columns

    def _drawn_of_episodes(self, batch_size: int, env: Any) -> tuple[Any, Columns]:
        """Draw among the steps of finished episodes, of which agents have unequally many."""
        assert isinstance(self.buffer, HerReplayBuffer)
        finished = self.buffer.ep_length > 0  # [T, A]
        num_finished = finished.sum(0)
        agents = np.flatnonzero(num_finished)
        steps = finished.T.nonzero()[1]  # agent by agent
        first = num_finished.cumsum() - num_finished
        turn, drawn = np.random.randint(max(len(agents), 1)), []

        def instead(method: Callable[..., Any]) -> Callable[..., Any]:
            def read(rows: Columns, columns: Columns, env: Any = None) -> Any:
                nonlocal turn
                own = agents[(turn + np.arange(len(rows))) % len(agents)]
                turn += len(rows)
                drawn.append(own)
                return method(steps[first[own] + np.random.randint(num_finished[own])], own, env)

            return read

        real, virtual = self.buffer._get_real_samples, self.buffer._get_virtual_samples
        with temporarily(self.buffer, _get_real_samples=instead(real), _get_virtual_samples=instead(virtual)):
            samples = self._sample(batch_size, env)
        columns = np.concatenate(drawn)
        order = columns.argsort(kind="stable")
        rows = torch.as_tensor(order, device=self.buffer.device)
        return _map(samples, len(columns), partial(_taken, rows=rows)), columns[order]


class _Read:
    """An array ``[T, A, ...]`` of a buffer's while samples are read.

    :param array: The array.
    :param note: Called with the columns that samples are read in.
    :param columns: Those to read in instead ``[B]``.
    """

    def __init__(
        self, array: NDArray[Any], note: Callable[[Columns], None] | None = None, columns: Columns | None = None
    ) -> None:
        self._array, self._note, self._columns = array, note, columns

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, tuple) and len(index) > 1 and isinstance(index[1], np.ndarray):
            asked = index[1]
            if self._columns is not None:
                index = (index[0], self._columns.reshape(asked.shape), *index[2:])
            if self._note is not None:
                self._note(asked.reshape(-1))
        return self._array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._array[index] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._array, name)


def _is_of_agents(item: Any, buffer: ReplayBuffer) -> bool:
    if isinstance(item, dict):
        return bool(item) and all(_is_of_agents(part, buffer) for part in item.values())
    return isinstance(item, np.ndarray) and item.shape[:2] == (buffer.buffer_size, buffer.n_envs)


def _read(item: Any, columns: Columns) -> Any:
    return (
        {key: _read(part, columns) for key, part in item.items()} if isinstance(item, dict) else _Read(item, columns=columns)
    )


def _tensors(samples: Any) -> Iterator[Tensor]:
    for field in fields_of(samples):
        for part in field.values() if isinstance(field, dict) else [field]:
            if isinstance(part, Tensor):
                yield part


def _is_finite(samples: Any) -> bool:
    return math.isfinite(sum(float(tensor.sum()) for tensor in _tensors(samples) if tensor.is_floating_point()))


def _finite_rows(samples: Any, size: int) -> Tensor:
    """``[B]``, bool."""
    rows = [tensor.isfinite().reshape(size, -1).all(1) for tensor in _tensors(samples) if has_rows(tensor, size)]
    return torch.stack(rows).all(0)


def _map(samples: Any, size: int, change: Callable[[Any], Any]) -> Any:
    """Change each tensor and array with B rows, those in dictionaries included; anything else passes through."""

    def changed(field: Any) -> Any:
        if isinstance(field, dict):
            return {key: changed(part) for key, part in field.items()}
        return change(field) if has_rows(field, size) else field

    return with_fields(samples, map(changed, fields_of(samples)))


def _taken(field: Any, rows: Tensor) -> Any:
    return field[rows] if isinstance(field, Tensor) else field[rows.cpu().numpy()]


def _without_gaps(field: Any) -> Any:
    return torch.nan_to_num(field) if isinstance(field, Tensor) else field
