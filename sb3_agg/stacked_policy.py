"""A policy evaluated under many sets of parameters at once. Axes: A agents, M samples of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

Named = dict[str, Tensor]
"""One tensor ``[A, ...]`` for each parameter, by its name in the policy."""


def evaluate_stacked(
    policy: nn.Module, method: Callable[..., Any], stacked: Named, *args: Any, **kwargs: Any
) -> tuple[Tensor | None, ...]:
    """Call a method of the policy for all agents, each with its own parameters and samples.

    :param policy: The policy.
    :param method: What to call; returns a tensor, or a tuple of tensors and ``None``.
    :param stacked: The parameters that differ between agents; it shares the others.
    :param args: Arguments of the method, ``[A * M, ...]`` agent by agent: tensors, dictionaries of tensors, or ``None``.
    :param kwargs: The same, by name.
    :return: ``[A, M, ...]`` each, ``None`` where the method returned it.
    """
    num_agents = len(next(iter(stacked.values())))
    names, given = list(kwargs), [*args, *kwargs.values()]
    absent: list[int] = []

    def call(parameters: Named, *own: Any) -> tuple[Tensor, ...]:
        positional, named = own[: len(args)], dict(zip(names, own[len(args) :], strict=True))
        outputs = functional_call(_Calling(policy, method), parameters, positional, named)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        absent[:] = [i for i, output in enumerate(outputs) if output is None]  # vmap returns tensors alone
        return tuple(output for output in outputs if output is not None)

    in_dims = (0, *[None if item is None else 0 for item in given])
    prefixed = {f"policy.{name}": parameters for name, parameters in stacked.items()}
    distribution = vars(getattr(policy, "action_dist", policy)).copy()
    results: list[Tensor | None] = list(
        vmap(call, in_dims=in_dims, randomness="different")(prefixed, *[_by_agent(item, num_agents) for item in given])
    )
    if hasattr(policy, "action_dist"):  # it remembers its last arguments, which mean nothing outside vmap
        vars(policy.action_dist).update(distribution)
    for i in absent:
        results.insert(i, None)
    return tuple(results)


def flatten_agents(outputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """``[A, M, ...]`` to ``[A * M, ...]``."""
    return [None if output is None else output.flatten(0, 1) for output in outputs]


class _Calling(nn.Module):
    """``functional_call`` wants a module whose ``forward`` is what should be called."""

    def __init__(self, policy: nn.Module, method: Callable[..., Any]) -> None:
        super().__init__()
        self.policy = policy
        self._method = method

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._method(*args, **kwargs)


def _by_agent(item: Any, num_agents: int) -> Any:
    if isinstance(item, dict):
        return {key: _by_agent(value, num_agents) for key, value in item.items()}
    return item.view(num_agents, -1, *item.shape[1:]) if isinstance(item, torch.Tensor) else item
