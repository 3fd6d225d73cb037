"""Minibatches with the agent of every sample. Axes: A agents, T steps, B samples of a minibatch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from torch import Tensor

from sb3_agg.patching import temporarily
from sb3_agg.samples import fields_of, has_rows, num_rows, with_fields

BATCHES_PER_GATHER = 32
"""Minibatches copied out of the buffer at once: most of the gain of one large copy, at a bounded memory."""


def cut(num_steps: int, num_agents: int, batch_size: int | None) -> NDArray[np.int64]:
    """Where each agent's rollout is cut, so that a minibatch takes as many samples of every agent.

    Parts have ``batch_size / A`` steps, and the last one what is left. Where that is no whole number, there are as many parts
    as minibatches in SB3's order, or at most T, and their lengths differ by at most one step.

    :param num_steps: T.
    :param num_agents: A.
    :param batch_size: Samples of a minibatch; ``None``: the whole rollout.
    """
    if batch_size is None:
        return np.arange(0)
    part, rest = divmod(batch_size, num_agents)
    if not rest:
        return np.arange(part, num_steps, part)
    num_parts = min(num_steps, math.ceil(num_steps * num_agents / batch_size))
    length, longer = divmod(num_steps, num_parts)
    parts = np.arange(1, num_parts)
    return parts * length + np.minimum(parts, longer)


class Minibatches:
    """Replace a rollout buffer's ``get`` and keep the agent of each sample in the current minibatch.

    :param buffer: A full rollout buffer.
    :param present: Agents whose samples are served ``[A]``, bool; the networks never see the others'.
    :param stratified: Equal parts of every agent in each minibatch, instead of SB3's own order.
    """

    samples: Any
    """The current minibatch, as SB3 gets it."""
    agents: Tensor
    """The agent of each of its samples ``[B]``."""
    epoch: int = 0
    """Passes over the rollout so far, the current one included."""
    is_current: bool = False
    """Whether a minibatch has been served and is not over."""

    def __init__(self, buffer: RolloutBuffer, present: NDArray[np.bool_], *, stratified: bool) -> None:
        self.buffer = buffer
        self.present = present
        self.num_present = int(present.sum())
        self.equal_parts = stratified
        """Whether a minibatch holds the same number of samples of each agent, agent by agent."""
        self._stratified = stratified
        self._get = buffer.get
        self._get_samples = buffer._get_samples
        self._agents_of_part: dict[int, Tensor] = {}
        self._counted: tuple[Tensor | None, Tensor] = (None, torch.empty(0))
        self._whole: Any = None

    def mean_per_agent(self, values: Tensor) -> Tensor:
        """Average over each agent's samples in the current minibatch.

        :param values: ``[B]``.
        :return: ``[A]``; NaN for agents without samples.
        """
        mask = getattr(self.samples, "mask", None)
        if mask is not None:  # padded sequences of a recurrent policy
            values = torch.where(mask > 0, values, 0.0)
        return self._sum_per_agent(values) / self.samples_per_agent()

    def samples_per_agent(self) -> Tensor:
        """Samples of each agent in the current minibatch ``[A]``."""
        if self._counted[0] is not self.agents:
            mask = getattr(self.samples, "mask", None)
            ones = torch.ones_like(self.samples.advantages) if mask is None else mask
            self._counted = (self.agents, self._sum_per_agent(ones))
        return self._counted[1]

    def _sum_per_agent(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.present)).index_add_(0, self.agents, values)

    @contextmanager
    def served(self) -> Iterator[None]:
        """Temporarily serve these minibatches by the buffer's ``get``."""
        served: dict[str, Any] = {"get": partial(self._noting, self._get_stratified)}
        if not self._stratified:
            served = {"get": partial(self._noting, self._get_stock), "_get_samples": self._get_samples_present}
        with temporarily(self.buffer, **served):
            yield

    def _noting(self, get: Callable[..., Iterator[Any]], batch_size: int | None = None) -> Iterator[Any]:
        self.epoch += 1
        for samples in get(batch_size):
            self.is_current = True
            yield samples
        self.is_current = False

    def check_rows(self, *args: Any, **kwargs: Any) -> None:
        """Check that what is evaluated can be the current minibatch.

        :param args: What ``evaluate_actions`` was called with.
        :raises ValueError: if it has other rows, or no minibatch is current: whose they are would be unknown.
        """
        if not self.is_current:
            raise ValueError(
                "train() evaluates samples outside a loop over rollout_buffer.get(): whose they are is unknown; evaluate each "
                "minibatch in the loop, before the next one is drawn"
            )
        given = num_rows(next(iter((*args, *kwargs.values()))))
        if given != len(self.agents):
            raise ValueError(
                f"train() evaluates {given} rows, and the minibatch has {len(self.agents)}: whose they are is unknown; "
                "evaluate all of its samples at once, and copies of them in further minibatches or under torch.no_grad()"
            )

    # SB3's own order ------------------------------------------------------------------------------------------------------

    def _get_stock(self, batch_size: int | None) -> Iterator[Any]:
        drawn: Iterator[Any] = self._get(batch_size)
        for samples in drawn:
            if samples is None:  # of masked agents alone
                continue
            if not hasattr(self, "agents"):
                raise ValueError(
                    f"{type(self.buffer).__name__} must draw by _get_samples(), or the agents of its samples are unknown"
                )
            self.samples = samples
            yield samples

    def _get_samples_present(self, indices: NDArray[np.int64], *args: Any) -> Any:
        agents = indices // self.buffer.buffer_size  # SB3 flattens [T, A] agent by agent
        if self.num_present < len(self.present):
            kept, least = self.present[agents], min(2, len(indices))
            indices, agents = indices[kept], agents[kept]
            if len(indices) < least:  # nothing to average, and a standard deviation needs two
                return None
        samples = self._get_samples(indices, *args)
        self.agents = self._label(agents)
        return samples

    # Equal parts of every agent -------------------------------------------------------------------------------------------

    def _get_stratified(self, batch_size: int | None) -> Iterator[Any]:
        num_steps = self.buffer.buffer_size
        self._flatten()
        first = np.flatnonzero(self.present)[:, None] * num_steps
        cuts = cut(num_steps, self.buffer.n_envs, batch_size)
        if not len(cuts):
            yield self._serve(self._whole_rollout(first + np.arange(num_steps)), num_steps)
            return
        order = first + np.random.random((self.num_present, num_steps)).argsort(axis=1)
        parts = np.split(order, cuts, axis=1)
        for start in range(0, len(parts), BATCHES_PER_GATHER):
            gathered = parts[start : start + BATCHES_PER_GATHER]
            samples = self._get_samples(np.concatenate([part.ravel() for part in gathered]))
            for part, rows in zip(gathered, _split(samples, [part.size for part in gathered]), strict=True):
                yield self._serve(rows, part.shape[1])

    def _whole_rollout(self, indices: NDArray[np.int64]) -> Any:
        if self._whole is None:  # the same in every epoch: a sum does not depend on order
            self._whole = self._get_samples(indices.ravel())
        return self._whole

    def _serve(self, samples: Any, part: int) -> Any:
        self.samples = samples
        if part not in self._agents_of_part:
            self._agents_of_part[part] = self._label(np.flatnonzero(self.present).repeat(part))
        self.agents = self._agents_of_part[part]
        return samples

    def _flatten(self) -> None:
        if not self.buffer.generator_ready:
            next(iter(self._get(1)))  # SB3 flattens its arrays when the first minibatch is drawn

    def _label(self, agents: NDArray[np.int64]) -> Tensor:
        return torch.as_tensor(agents, device=self.buffer.device)


def _split(samples: Any, sizes: list[int]) -> list[Any]:
    """Cut tensors and arrays, those in dictionaries included, into views of so many rows; all parts share anything else."""
    num_rows = sum(sizes)

    def parts_of(field: Any) -> Sequence[Any]:
        if isinstance(field, dict):
            parts = {key: parts_of(item) for key, item in field.items()}
            return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]
        if not has_rows(field, num_rows):
            return [field] * len(sizes)
        if isinstance(field, Tensor):
            return field.split(sizes)  # type: ignore[no-untyped-call, no-any-return]
        return np.split(field, np.cumsum(sizes)[:-1])

    return [with_fields(samples, fields) for fields in zip(*map(parts_of, fields_of(samples)), strict=True)]
