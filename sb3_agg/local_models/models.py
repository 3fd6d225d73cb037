r"""Copies of the policy's parameters, one for each agent. Axes: A agents, P parameters.

The policy itself holds their average, :math:`\theta = \sum_a \frac{n_a}{\sum_b n_b} \theta_a`, where :math:`n_a` is the number
of agent a's samples since the last merge. The average predicts and is evaluated.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl_agg import Exchange, Signals
from rl_agg.exchange import Merged
from rl_agg.payloads import Parameters, Payload, merge
from rl_agg.per_agent_gradients import flat, unflatten
from sb3_agg.local_models.looped_policy import LoopedPolicy, needs_loop
from sb3_agg.local_models.stacked_optimizer import StackedOptimizer
from sb3_agg.local_models.stacked_policy import Named, StackedPolicy
from sb3_agg.rollouts.minibatches import Minibatches

EVERYTHING = slice(None)


class LocalModels:
    """What each agent keeps to itself: parameters, the buffers of its networks, the state of its optimiser, and counters.

    :param payload: Decides what is merged, and what becomes of moments.
    :param policy: SB3's actor-critic policy.
    :param num_agents: A.
    :param initial: Each agent's initial parameters and buffers by name; ``None``: the policy's.
    :raises ValueError: if the policy's optimiser cannot step for several agents at once.
    """

    copies: Tensor
    """Each agent's parameters that are trained ``[A, P]``."""
    last_merge: Tensor
    """Parameters of the last merge, or of the start ``[P]``."""
    differ: bool
    """Whether an agent's parameters may differ from the policy's."""
    divergence: float
    """Mean distance of the copies from their average, before they were merged."""

    def __init__(
        self,
        payload: Payload,
        policy: Any,
        num_agents: int,
        initial: Sequence[Named] | None = None,
    ) -> None:
        self._moments = payload.moments if isinstance(payload, Parameters) else "keep"
        self._policy = policy
        own = [named(policy)] * num_agents if initial is None else initial
        self._parameters = _trained(policy)
        self._buffers = {name: torch.stack([item[name] for item in own]) for name in _buffers(policy)}
        self.copies = torch.stack([flat(item[name] for name in self._parameters) for item in own])
        self._leaves = self._leaves_of(self.copies)
        self._follow_optimizer()
        self._columns = self._merged_columns(payload)
        self._num_samples = torch.zeros(num_agents, device=self.copies.device)
        self._num_updates = 0
        self.divergence = 0.0
        self.differ = initial is not None and num_agents > 1
        self._written = flat(self._parameters.values())
        if self.differ:
            self._write_average(torch.ones_like(self._num_samples))
        self.last_merge = self._written.clone()

    def _merged_columns(self, payload: Payload) -> slice | Tensor:
        """Which of P are merged."""
        if not isinstance(payload, Parameters) or payload.layers is None:
            return EVERYTHING
        chosen = set(payload.selected(list(self._parameters)))
        parts = [torch.full((parameter.numel(),), name in chosen) for name, parameter in self._parameters.items()]
        return torch.cat(parts).nonzero()[:, 0].to(self.copies.device)

    def fit(self, policy: Any) -> bool:
        """Whether these are copies of a policy as it is now: with the same parameters, and the same of them trained."""
        own = _trained(policy)
        return own.keys() == self._parameters.keys() and all(own[name] is item for name, item in self._parameters.items())

    @property
    def trained(self) -> bool:
        """Whether agents have been trained since the start, or the last merge."""
        return self._num_updates > 0

    @property
    def names(self) -> list[str]:
        """The agents' own parameters and buffers, by their names in the policy."""
        return [*self._parameters, *self._buffers]

    def stacked_policy(self, minibatches: Minibatches | None = None) -> StackedPolicy:
        """The policy, to be called with parameters of :meth:`stacked`.

        :param minibatches: Whose samples it will be called with, in training.
        """
        if needs_loop(self._policy):
            return LoopedPolicy(self._policy, self.names, minibatches)
        return StackedPolicy(self._policy, self.names)

    # Networks -------------------------------------------------------------------------------------------------------------

    def stacked(self, rows: Tensor | None = None) -> Named:
        """Parameters, which are leaves, and copies of the buffers.

        :param rows: Agents ``[A']``; ``None``: all.
        :return: ``[A', ...]`` each, by name.
        """
        leaves = self._leaves if rows is None else self._leaves_of(self.copies[rows])
        buffers = {name: buffer.clone() if rows is None else buffer[rows] for name, buffer in self._buffers.items()}
        return {**leaves, **buffers}

    def each(self) -> list[Named]:
        """Each agent's parameters and buffers, by name; frozen ones are the policy's."""
        shared, own = named(self._policy), {**self._views(self.copies), **self._buffers}
        return [{**shared, **{name: part[agent] for name, part in own.items()}} for agent in range(len(self.copies))]

    def keep_buffers(self, stacked: Named, rows: Tensor | None, kept: Tensor) -> None:
        """Store buffers that networks have written to.

        :param stacked: The result of :meth:`stacked`.
        :param rows: Its argument.
        :param kept: Whose buffers are stored ``[A]``, bool.
        """
        for name, buffer in self._buffers.items():
            own = slice(None) if rows is None else rows
            written = buffer.clone()
            written[own] = stacked[name]
            buffer[kept] = written[kept]

    def _leaves_of(self, copies: Tensor) -> Named:
        return {name: part.detach().requires_grad_() for name, part in self._views(copies).items()}

    def _views(self, flat: Tensor) -> Named:
        return dict(zip(self._parameters, unflatten(flat, self._parameters.values()), strict=True))

    # Merging --------------------------------------------------------------------------------------------------------------

    def end_update(self, num_samples: Tensor, exchange: Exchange | None, signals: Signals) -> Merged | None:
        """Give the policy the average of the copies, and merge if it is due.

        :param num_samples: Each agent's samples in this update ``[A]``; an agent whose copy is not finite does not count.
        :param exchange: Merges parameters; ``None`` if agents do not exchange them.
        :param signals: What agents report in this update.
        :return: What was merged, if anything.
        """
        self._num_samples += num_samples.to(self._num_samples)
        self._num_updates += 1
        self.differ = len(self.copies) > 1
        weights = self._num_samples * self.copies.sum(1).isfinite()
        due = exchange is not None and exchange.due()
        if not bool((weights > 0).any()):
            return None
        self._write_average(weights)
        self.divergence = (self.copies[weights > 0] - self._written).norm(dim=1).mean().item()
        if exchange is None or not due:
            return None
        reported = dataclasses.replace(signals, present=weights > 0)
        if signals.num_samples is not None:
            reported = dataclasses.replace(reported, num_samples=self._num_samples)
        return self._merge(exchange, reported)

    def _merge(self, exchange: Exchange, signals: Signals) -> Merged:
        """Exchange parameters; buffers and, if they are merged too, moments are averaged with the same weights."""
        columns = self._columns
        extra = sum(buffer[0].numel() for buffer in self._buffers.values())
        extra += self.optimizer.num_moments if self._moments == "merge" else 0
        merged = exchange.merge(self.copies[:, columns], signals, reference=self.last_merge[columns], extra=extra)
        if not bool(merged.present.any()):
            return merged
        weights = merged.present.to(merged.vector) if merged.weights is None else merged.weights
        parameters = self._written.clone()
        parameters[columns] = merged.vector
        sent = weights * merged.sends.to(weights)  # buffers and moments of the others did not come with a message
        has_sent = bool(sent.any())
        self._write(parameters, merge(self._buffers.values(), sent) if has_sent else list(_buffers(self._policy).values()))
        self._share(columns, buffers=has_sent)
        if self._moments == "merge" and has_sent:
            self.optimizer.merge(sent)
        elif self._moments == "reset":
            self.optimizer.reset()
        return merged

    @torch.no_grad()
    def follow_policy(self) -> None:
        """Do to all agents what something else did to the policy: to its parameters, or by giving it another optimiser."""
        if self._policy.optimizer is not self._followed:
            self._follow_optimizer()
        written = flat(self._parameters.values())
        change = written - self._written
        if not bool(change.any()):
            return
        for values in (self.copies, self.last_merge):
            values.copy_(torch.where(change.isfinite(), values + change, written) if self.differ else written)
        if not self.differ:
            for name, buffer in _buffers(self._policy).items():
                self._buffers[name].copy_(buffer)
        self._written = written

    def _follow_optimizer(self) -> None:
        """Step as the policy's optimiser would, without moments as yet."""
        _check_optimizer(self._policy)
        self._followed = self._policy.optimizer
        self.optimizer = StackedOptimizer(self.copies, self._followed)
        for name, view in self._views(self.optimizer.gradients).items():
            self._leaves[name].grad = view  # a backward pass may write there

    def start_from_policy(self) -> None:
        """Start all agents from the policy's parameters, without moments."""
        self._written = flat(self._parameters.values())
        self._share()
        self.optimizer.reset()
        self.divergence = 0.0

    def _share(self, columns: slice | Tensor = EVERYTHING, *, buffers: bool = True) -> None:
        """Copy the policy's buffers and some of its parameters to all agents, and restart the counters."""
        self.copies[:, columns] = self._written[columns]
        self.last_merge[columns] = self._written[columns]
        for name, buffer in _buffers(self._policy).items() if buffers else ():
            self._buffers[name].copy_(buffer)
        self._num_samples.zero_()
        self._num_updates = 0
        self.differ = not isinstance(columns, slice)

    def _write_average(self, weights: Tensor) -> None:
        parameters, *buffers = merge((self.copies, *self._buffers.values()), weights)
        self._write(parameters, buffers)

    @torch.no_grad()
    def _write(self, parameters: Tensor, buffers: Sequence[Tensor]) -> None:
        """Give the policy parameters ``[P]`` and buffers."""
        self._written = parameters
        own = [*self._parameters.values(), *_buffers(self._policy).values()]
        for tensor, value in zip(own, [*unflatten(parameters, self._parameters.values()), *buffers], strict=True):
            tensor.copy_(value)

    # Files ----------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and plain numbers."""
        return {
            "copies": self.copies,
            "buffers": self._buffers,
            "optimizer": self.optimizer.state_dict(),
            "last_merge": self.last_merge,
            "num_samples": self._num_samples,
            "num_updates": self._num_updates,
            "differ": self.differ,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, with the policy as it was then.

        With another number of agents, the remaining ones keep their copies, new ones start from the policy, and all start
        without moments.
        """
        state = copy.deepcopy(dict(state))  # it may be our own
        self.start_from_policy()
        shared = min(len(state["copies"]), len(self.copies))
        self.copies[:shared] = state["copies"][:shared]
        self._num_samples[:shared] = state["num_samples"][:shared]
        for name, buffer in self._buffers.items():
            buffer[:shared] = state["buffers"][name][:shared]
        self.last_merge.copy_(state["last_merge"])
        self._num_updates = state["num_updates"]
        self.differ = state["differ"]
        if len(state["copies"]) == len(self.copies):
            self.optimizer.load_state_dict(state["optimizer"])


def _check_optimizer(policy: Any) -> None:
    groups = policy.optimizer.param_groups
    if len(groups) != 1:
        raise ValueError(f"local models need an optimiser with one group of parameters, got {len(groups)} in the policy's")
    own = {id(parameter) for parameter in groups[0]["params"]}
    missing = [name for name, parameter in _trained(policy).items() if id(parameter) not in own]
    if missing:
        raise ValueError(
            f"local models need an optimiser of all trained parameters, and the policy's lacks {', '.join(missing)}; add them "
            "or freeze them with requires_grad_(False)"
        )


def named(policy: nn.Module) -> Named:
    """A policy's parameters and buffers, by name."""
    return {**dict(policy.named_parameters()), **_buffers(policy)}


def _trained(policy: nn.Module) -> Named:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def _buffers(policy: nn.Module) -> Named:
    return dict(policy.named_buffers())
