"""A policy evaluated under many sets of parameters at once. Axes: A agents, M samples of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

Named = dict[str, Tensor]
"""One tensor ``[A, ...]`` for each parameter or buffer, by its name in the policy."""


class StackedPolicy:
    """Call a policy's methods for all agents at once, each with parameters of its own.

    :param policy: The policy.
    :param names: The parameters and buffers that differ between agents; they share the others.
    """

    def __init__(self, policy: nn.Module, names: Iterable[str]) -> None:
        self._policy = policy
        # torch.func.functional_call looks for them anew each time, which takes as long as a small network's forward pass
        own = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}
        self._own = {name: own[name] for name in names}
        self._places = _places(policy, self._own.values())

    def __call__(self, method: Callable[..., Any], stacked: Named, *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Call a method.

        :param method: What to call; returns a tensor, or a tuple of tensors and ``None``.
        :param stacked: The parameters and buffers, ``[A, ...]`` each. A buffer that the method writes to is written here.
        :param args: Arguments of the method, ``[A * M, ...]`` agent by agent: tensors, dictionaries of tensors, or ``None``.
        :param kwargs: The same, by name.
        :return: ``[A * M, ...]`` each, ``None`` where the method returned it.
        """
        tensors = [stacked[name] for name in self._own]
        num_agents = len(tensors[0])
        names, given = list(kwargs), [*args, *kwargs.values()]
        absent: list[int] = []

        def call(own: list[Tensor], *items: Any) -> tuple[Tensor, ...]:
            named = dict(zip(names, items[len(args) :], strict=True))
            with self._using(own):
                outputs = method(*items[: len(args)], **named)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            absent[:] = [i for i, output in enumerate(outputs) if output is None]  # vmap returns tensors alone
            return tuple(output for output in outputs if output is not None)

        in_dims = (0, *[None if item is None else 0 for item in given])
        distribution = vars(getattr(self._policy, "action_dist", self._policy)).copy()
        outputs = vmap(call, in_dims=in_dims, randomness="different")(
            tensors, *[_by_agent(item, num_agents) for item in given]
        )
        if hasattr(self._policy, "action_dist"):  # it remembers its last arguments, which mean nothing outside vmap
            vars(self._policy.action_dist).update(distribution)
        results: list[Tensor | None] = [output.flatten(0, 1) for output in outputs]
        for i in absent:
            results.insert(i, None)
        return results

    @contextmanager
    def _using(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Let the modules use other tensors for a while."""
        try:
            self._put(tensors)
            yield
        finally:
            self._put(self._own.values())

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for places, tensor in zip(self._places, tensors, strict=True):
            for kept, key in places:
                kept[key] = tensor


def _places(policy: nn.Module, tensors: Iterable[Tensor]) -> list[list[tuple[dict[str, Any], str]]]:
    """Where the modules keep each of these tensors; a shared one in several places."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in policy.modules():
        for kept in (module._parameters, module._buffers):
            for key, tensor in kept.items():
                places.setdefault(id(tensor), []).append((kept, key))
    return [places[id(tensor)] for tensor in tensors]


def _by_agent(item: Any, num_agents: int) -> Any:
    if isinstance(item, dict):
        return {key: _by_agent(value, num_agents) for key, value in item.items()}
    return item.view(num_agents, -1, *item.shape[1:]) if isinstance(item, torch.Tensor) else item
