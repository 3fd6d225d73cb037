"""A policy evaluated under one set of parameters after the other. Axes: A agents, M samples of each, Q sequences, L layers.

Slower than :class:`~sb3_agg.local_models.stacked_policy.StackedPolicy`, but for any policy: recurrent ones, and those with a
``forward()`` of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from sb3_agg.local_models.stacked_policy import Named, StackedPolicy
from sb3_agg.patching import is_stock
from sb3_agg.rollouts.minibatches import Minibatches
from sb3_agg.samples import num_rows


def needs_loop(policy: nn.Module) -> bool:
    """Whether a policy can only be called agent by agent: recurrent, compiled, with gSDE, or with own ways to act."""
    kind: Any = type(policy)
    known = isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy)
    if not known or isinstance(policy, RecurrentActorCriticPolicy) or getattr(policy, "use_sde", False):
        return True
    return not (is_stock(kind.forward) and is_stock(kind._get_action_dist_from_latent))


class LoopedPolicy(StackedPolicy):
    """Call a policy's methods for each agent, with parameters of its own.

    :param policy: The policy.
    :param names: The parameters and buffers that differ between agents; the others are shared.
    :param minibatches: Whose samples it is called with; ``None``: equally many of each agent, one agent after the other.
    """

    def __init__(self, policy: nn.Module, names: Iterable[str], minibatches: Minibatches | None = None) -> None:
        super().__init__(policy, names)
        self._minibatches = minibatches

    def __call__(self, method: Callable[..., Any], stacked: Named, *args: Any, **kwargs: Any) -> list[Any]:
        """As :class:`StackedPolicy`; recurrent states ``[L, Q, ...]`` in tuples are split by sequence."""
        by_agent = list(zip(*[stacked[name].unbind() for name in self._own], strict=True))
        outputs = []
        for tensors, (rows, sequences) in zip(by_agent, self._split(args, len(by_agent)), strict=True):
            own = [_part(item, rows, sequences) for item in args]
            named = {name: _part(item, rows, sequences) for name, item in kwargs.items()}
            with self._using(tensors):
                results = method(*own, **named)
            outputs.append(results if type(results) is tuple else (results,))
        return [_joined(parts) for parts in zip(*outputs, strict=True)]

    def _split(self, args: tuple[Any, ...], num_agents: int) -> list[tuple[Any, Any]]:
        """Rows and sequences of each agent."""
        total, states = num_rows(args[0]), next((item for item in args if isinstance(item, tuple)), None)
        if states is None or self._minibatches is None:
            bounds = [(agent * total // num_agents, (agent + 1) * total // num_agents) for agent in range(num_agents)]
            blocks = [slice(start, end) for start, end in bounds]
            return list(zip(blocks, blocks, strict=True))
        first = self._minibatches.agents.view(_first_tensor(states).shape[1], -1)[:, 0]  # padding comes last
        length = total // len(first)
        present = np.flatnonzero(self._minibatches.present).tolist()
        sequences = [(first == agent).nonzero()[:, 0] for agent in present]
        steps = torch.arange(length, device=first.device)
        return [((own[:, None] * length + steps).flatten(), own) for own in sequences]


def _part(item: Any, rows: Any, sequences: Any) -> Any:
    """What belongs to one agent; settings, which have no rows, belong to all."""
    if isinstance(item, Tensor):
        return item[rows]
    if isinstance(item, np.ndarray):
        return item[rows if isinstance(rows, slice) else rows.cpu().numpy()]
    if isinstance(item, dict):
        return {key: value[rows] for key, value in item.items()}
    if isinstance(item, tuple):
        parts = [
            part[:, sequences].contiguous() if isinstance(part, Tensor) else _part(part, rows, sequences) for part in item
        ]
        return type(item)(*parts) if hasattr(item, "_fields") else tuple(parts)
    return item


def _joined(parts: tuple[Any, ...]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    fields = [torch.cat(own, dim=1) if isinstance(own[0], Tensor) else _joined(own) for own in zip(*parts, strict=True)]
    return type(parts[0])(*fields) if hasattr(parts[0], "_fields") else tuple(fields)


def _first_tensor(item: Any) -> Tensor:
    return item if isinstance(item, Tensor) else _first_tensor(item[0])
