r"""Copies of the policy's parameters, one for each agent. Axes: A agents, P parameters.

The policy itself holds their average, :math:`\theta = \sum_a \frac{n_a}{\sum_b n_b} \theta_a`, where :math:`n_a` is how many
samples agent a has had since the last merge. It is what predicts and what is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rl_agg.payloads import FedAvg, LocalScheme, merge
from sb3_agg.local_models.stacked_optimizer import StackedOptimizer
from sb3_agg.local_models.stacked_policy import Named


class LocalModels:
    """What each agent keeps to itself: parameters, the buffers of its networks, and the state of its optimiser.

    :param scheme: What is merged, and when.
    :param policy: SB3's actor-critic policy.
    :param num_agents: A.
    :param initial: What each agent starts from, parameters and buffers by name; ``None``: all start from ``policy``.
    :raises ValueError: if the policy's optimiser is not as SB3 makes it, and could not be made again for several agents.
    """

    copies: Tensor
    """Each agent's parameters that are trained ``[A, P]``."""
    last_merge: Tensor
    """Parameters of the last merge, or of the start ``[P]``."""
    differ: bool
    """Whether an agent's parameters may be others than the policy's."""
    divergence: float
    """Mean distance of the copies from their average, before they were merged."""

    def __init__(
        self,
        scheme: LocalScheme,
        policy: Any,
        num_agents: int,
        initial: Sequence[Named] | None = None,
    ) -> None:
        _check_optimizer(policy)
        self._interval = scheme.interval if isinstance(scheme, FedAvg) else None
        self._moments = scheme.moments if isinstance(scheme, FedAvg) else "keep"
        self._policy = policy
        own = [named(policy)] * num_agents if initial is None else initial
        self._parameters = _trained(policy)
        self._buffers = {name: torch.stack([item[name] for item in own]) for name in _buffers(policy)}
        self.copies = torch.stack([_flat({name: item[name] for name in self._parameters}) for item in own])
        self._leaves = self._leaves_of(self.copies)
        fused = {"fused": True} if policy.optimizer.defaults.get("fused") else {}
        self.optimizer = StackedOptimizer(self.copies, policy.optimizer_class, {**policy.optimizer_kwargs, **fused})
        for name, view in self._views(self.optimizer.gradients).items():
            self._leaves[name].grad = view  # where a backward pass may leave them
        self._num_samples = torch.zeros(num_agents, device=self.copies.device)
        self._num_updates = 0
        self.divergence = 0.0
        self.differ = initial is not None and num_agents > 1
        self._written = _flat(self._parameters)
        if self.differ:
            self._write_average(torch.ones_like(self._num_samples))
        self.last_merge = self._written.clone()

    @property
    def fits_policy(self) -> bool:
        """Whether the policy's parameters are trained or frozen as they were."""
        return _trained(self._policy).keys() == self._parameters.keys()

    @property
    def trained(self) -> bool:
        """Whether agents have been trained since the start, or the last merge."""
        return self._num_updates > 0

    @property
    def names(self) -> list[str]:
        """What the agents have of their own, by its name in the policy."""
        return [*self._parameters, *self._buffers]

    @property
    def size(self) -> int:
        """How many numbers an agent sends at a merge: P, its networks' buffers, and its moments if these are merged too."""
        moments = self.optimizer.num_moments if self._moments == "merge" else 0
        return self.copies.shape[1] + sum(buffer[0].numel() for buffer in self._buffers.values()) + moments

    # For the networks -----------------------------------------------------------------------------------------------------

    def stacked(self, rows: Tensor | None = None) -> Named:
        """Parameters, to be differentiated with respect to, and copies of the buffers.

        :param rows: Agents ``[A']``; ``None``: all.
        :return: ``[A', ...]`` each, by name.
        """
        leaves = self._leaves if rows is None else self._leaves_of(self.copies[rows])
        buffers = {name: buffer.clone() if rows is None else buffer[rows] for name, buffer in self._buffers.items()}
        return {**leaves, **buffers}

    def each(self) -> list[Named]:
        """Each agent's parameters and buffers, by name. What was frozen is the policy's, for all."""
        shared, own = named(self._policy), {**self._views(self.copies), **self._buffers}
        return [{**shared, **{name: part[agent] for name, part in own.items()}} for agent in range(len(self.copies))]

    def keep_buffers(self, stacked: Named, rows: Tensor | None, kept: Tensor) -> None:
        """Take over buffers that networks have written to.

        :param stacked: What :meth:`stacked` gave.
        :param rows: What it was asked for.
        :param kept: Whose buffers are taken ``[A]``, bool.
        """
        for name, buffer in self._buffers.items():
            own = slice(None) if rows is None else rows
            written = buffer.clone()
            written[own] = stacked[name]
            buffer[kept] = written[kept]

    def _leaves_of(self, copies: Tensor) -> Named:
        return {name: part.detach().requires_grad_() for name, part in self._views(copies).items()}

    def _views(self, flat: Tensor) -> Named:
        parts = torch.split(flat, [parameter.numel() for parameter in self._parameters.values()], dim=1)
        return {
            name: part.view(len(flat), *parameter.shape)
            for (name, parameter), part in zip(self._parameters.items(), parts, strict=True)
        }

    # Merging --------------------------------------------------------------------------------------------------------------

    def end_update(self, num_samples: Tensor) -> Tensor | None:
        """Give the policy the average of the copies, and all agents too if a merge is due.

        :param num_samples: Samples that each agent had in this update ``[A]``. One whose copy is not finite does not count.
        :return: Who sent parameters to be merged ``[A]``, bool; ``None``: nobody.
        """
        self._num_samples += num_samples.to(self._num_samples)
        self._num_updates += 1
        self.differ = len(self.copies) > 1
        weights = self._num_samples * self.copies.sum(1).isfinite()
        sent = weights > 0
        if not bool(sent.any()):
            return None
        self._write_average(weights)
        self.divergence = (self.copies[sent] - self._written).norm(dim=1).mean().item()
        if self._interval is None or self._num_updates < self._interval:
            return None
        self._share()
        if self._moments == "merge":
            self.optimizer.merge(weights)
        elif self._moments == "reset":
            self.optimizer.reset()
        return sent

    def follow_policy(self) -> None:
        """Let all agents start from the policy if someone else has written to it."""
        if not torch.equal(_flat(self._parameters), self._written):
            self.start_from_policy()

    def start_from_policy(self) -> None:
        """Let all agents start from the policy's parameters, with nothing in their optimisers' memory."""
        self._written = _flat(self._parameters)
        self._share()
        self.optimizer.reset()
        self.divergence = 0.0

    def _share(self) -> None:
        """Let everyone have what the policy has."""
        self.copies.copy_(self._written)
        for name, buffer in _buffers(self._policy).items():
            self._buffers[name].copy_(buffer)
        self.last_merge = self._written.clone()
        self._num_samples.zero_()
        self._num_updates = 0
        self.differ = False

    @torch.no_grad()
    def _write_average(self, weights: Tensor) -> None:
        averages = merge((self.copies, *self._buffers.values()), weights)
        self._written, buffers = averages[0], averages[1:]
        parts = torch.split(self._written, [parameter.numel() for parameter in self._parameters.values()])
        for parameter, part in zip(self._parameters.values(), parts, strict=True):
            parameter.copy_(part.view_as(parameter))
        for own, buffer in zip(_buffers(self._policy).values(), buffers, strict=True):
            own.copy_(buffer)

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
        """Go on from :meth:`state_dict`, with the policy as it was then.

        Of another number of agents, those that are still there keep their copies, new ones start from the policy, and nobody
        has anything in their optimisers' memory.
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
    made, groups = policy.optimizer, policy.optimizer.param_groups
    if len(groups) != 1:
        raise ValueError(f"local models need an optimiser with one group of parameters, got {len(groups)} in the policy's")
    expected = policy.optimizer_class([nn.Parameter(torch.zeros(1))], lr=groups[0]["lr"], **policy.optimizer_kwargs)
    own = {id(parameter) for parameter in groups[0]["params"]}
    missing = [name for name, parameter in _trained(policy).items() if id(parameter) not in own]
    ignored = {"params", "fused", "lr", "initial_lr"}
    settings = [
        name for name, value in expected.param_groups[0].items() if name not in ignored and groups[0].get(name) != value
    ]
    what = None
    if type(made) is not policy.optimizer_class:
        what = f"is of another type, {type(made).__name__}"
    elif missing:
        what = f"has not {', '.join(missing)}"
    elif settings:
        what = f"has another {', '.join(sorted(settings))}"
    if what is not None:
        raise ValueError(
            f"local models make their optimisers from the policy's optimizer_class and optimizer_kwargs, but its own {what}"
        )


def named(policy: nn.Module) -> Named:
    """A policy's parameters and buffers, by name."""
    return {**dict(policy.named_parameters()), **_buffers(policy)}


def _trained(policy: nn.Module) -> Named:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def _buffers(policy: nn.Module) -> Named:
    return dict(policy.named_buffers())


@torch.no_grad()
def _flat(parameters: Named) -> Tensor:
    """``[P]``."""
    return torch.cat([parameter.reshape(-1) for parameter in parameters.values()])
