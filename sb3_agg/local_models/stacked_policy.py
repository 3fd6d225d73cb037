"""A policy evaluated under many sets of parameters at once. Axes: A agents, M samples of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor, nn
from torch.func import vmap

from sb3_agg.patching import is_stock, temporarily
from sb3_agg.samples import num_rows

Named = dict[str, Tensor]
"""One tensor ``[A, ...]`` for each parameter or buffer, by its name in the policy."""


class StackedPolicy:
    """Call a policy's methods for all agents at once, each with parameters of its own.

    Where only linear layers have parameters, as in ``MlpPolicy``, they multiply batches of matrices and the rest of the policy
    runs unchanged. Other networks run under vmap, whose overhead is as large as a small network's cost.

    :param policy: The policy.
    :param names: The parameters and buffers that differ between agents; the others are shared.
    """

    def __init__(self, policy: nn.Module, names: Iterable[str]) -> None:
        self._policy = policy
        own = {**dict(policy.named_parameters()), **dict(policy.named_buffers())}
        self._own = {name: own[name] for name in names}
        # torch.func.functional_call searches for them in each call, which takes as long as a small network's forward pass
        self._places = _places(policy, self._own.values())
        self._linear = _linear_layers(policy, self._own)

    @property
    def is_linear(self) -> bool:
        """Whether only linear layers have parameters, so that it costs about what the policy itself does."""
        return self._linear is not None

    def __call__(self, method: Callable[..., Any], stacked: Named, *args: Any, **kwargs: Any) -> list[Tensor | None]:
        """Call a method.

        :param method: What to call; returns a tensor, or a tuple of tensors and ``None``.
        :param stacked: The parameters and buffers, ``[A, ...]`` each. A buffer that the method writes to is written here.
        :param args: Arguments of the method, ``[A * M, ...]`` agent by agent: tensors, dictionaries of tensors, or ``None``.
        :param kwargs: The same, by name.
        :return: ``[A * M, ...]`` each, ``None`` where the method returned it.
        """
        tensors = [stacked[name] for name in self._own]
        call = self._call_under_vmap if self._linear is None else self._call_batched
        distribution = vars(getattr(self._policy, "action_dist", self._policy)).copy()
        outputs = call(method, tensors, args, kwargs)
        if hasattr(self._policy, "action_dist"):  # it keeps its last arguments, which are invalid outside
            vars(self._policy.action_dist).update(distribution)
        return list(outputs)

    # Linear layers alone --------------------------------------------------------------------------------------------------

    def _call_batched(
        self, method: Callable[..., Any], tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, ...]:
        assert self._linear is not None
        num_samples = num_rows(args[0]) // len(tensors[0])
        # A parameter of the policy itself, log_std, multiplies samples: each gets its agent's
        by_sample = [
            tensor.repeat_interleave(num_samples, 0) if "." not in name else tensor
            for name, tensor in zip(self._own, tensors, strict=True)
        ]
        with ExitStack() as stack:
            stack.enter_context(self._using(by_sample))
            used: set[int] = set()
            for layer in self._linear:
                stack.enter_context(temporarily(layer, forward=partial(_batched_linear, layer, used)))
            return _tuple(method(*args, **kwargs))

    # Anything -------------------------------------------------------------------------------------------------------------

    def _call_under_vmap(
        self, method: Callable[..., Any], tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor | None, ...]:
        names, given = list(kwargs), [*args, *kwargs.values()]
        absent: list[int] = []

        def call(own: list[Tensor], *items: Any) -> tuple[Tensor, ...]:
            with self._using(own):
                outputs = _tuple(method(*items[: len(args)], **dict(zip(names, items[len(args) :], strict=True))))
            absent[:] = [i for i, output in enumerate(outputs) if output is None]  # vmap returns tensors alone
            return tuple(output for output in outputs if output is not None)

        in_dims = (0, *[None if item is None else 0 for item in given])
        by_agent = [_by_agent(item, len(tensors[0])) for item in given]
        results: list[Tensor | None] = [
            output.flatten(0, 1) for output in vmap(call, in_dims=in_dims, randomness="different")(tensors, *by_agent)
        ]
        for i in absent:
            results.insert(i, None)
        return tuple(results)

    @contextmanager
    def _using(self, tensors: Iterable[Tensor]) -> Iterator[None]:
        """Temporarily let the modules use other tensors."""
        try:
            self._put(tensors)
            yield
        finally:
            self._put(self._own.values())

    def _put(self, tensors: Iterable[Tensor]) -> None:
        for places, tensor in zip(self._places, tensors, strict=True):
            for kept, key in places:
                kept[key] = tensor


def _places(policy: nn.Module, tensors: Iterable[Tensor]) -> list[list[tuple[Any, Any]]]:
    """The containers and keys under which modules hold each of these tensors; several for a shared one."""
    places: dict[int, list[tuple[Any, Any]]] = {}
    for module in policy.modules():
        for kept in (module._parameters, module._buffers):
            for key, tensor in kept.items():
                places.setdefault(id(tensor), []).append((kept, key))
        if isinstance(module, nn.RNNBase):  # whose forward pass reads a list of its own
            for position, weight in enumerate(module._flat_weights):
                places.setdefault(id(weight), []).append((module._flat_weights, position))
    return [places[id(tensor)] for tensor in tensors]


def _linear_layers(policy: nn.Module, own: Named) -> list[nn.Linear] | None:
    """The layers that hold ``own``; ``None`` where other modules do, or might."""
    differ = {id(tensor) for tensor in own.values()}
    layers = []
    for module in policy.modules():
        if not (is_stock(type(module)) or type(module).__module__.startswith("torch.")):
            return None  # it may use its layers' parameters in other ways
        kept = {**module._parameters, **module._buffers}
        mine = [name for name, tensor in kept.items() if id(tensor) in differ]
        whole = {"weight", "bias"} >= set(mine) and len(mine) == sum(tensor is not None for tensor in kept.values())
        plain = "forward" not in vars(module) and not module._forward_pre_hooks  # which may make its weight
        if type(module) is nn.Linear and whole and plain:
            layers.append(module)
        elif mine and not (
            module is policy and mine == ["log_std"] and isinstance(policy.action_dist, DiagGaussianDistribution)
        ):
            return None
    return layers


def _batched_linear(layer: nn.Linear, used: set[int], inputs: Tensor) -> Tensor:
    """``[A * M, ..., in]`` to ``[A * M, ..., out]``.

    :param used: The ``id`` of weights that were used before; this layer's is added.
    """
    weight, bias = layer.weight, layer.bias  # [A, out, in], [A, out]
    rows = inputs.reshape(len(weight), -1, inputs.shape[-1])
    if bias is not None and rows.shape[1] == 1 and torch.is_grad_enabled():
        into = None if id(weight) in used else weight.grad
        outputs: Tensor = _OneSampleEach.apply(rows, weight, bias, into)  # type: ignore[no-untyped-call]
    else:
        outputs = torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)
    used.add(id(weight))
    return outputs.view(*inputs.shape[:-1], outputs.shape[-1])


class _OneSampleEach(torch.autograd.Function):
    """A linear layer of which each agent has one sample.

    The weights' gradients are then outer products, for which torch's batched matrix products take three times as long, and are
    written in place.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, into: Tensor | None) -> Tensor:
        """Apply the layer.

        :param rows: ``[A, 1, in]``.
        :param weight: ``[A, out, in]``.
        :param bias: ``[A, out]``.
        :param into: Memory for the weights' gradients ``[A, out, in]``; ``None``: newly allocated.
        """
        ctx.save_for_backward(rows, weight)
        ctx.into = into
        return torch.baddbmm(bias[:, None], rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        """Differentiate it."""
        (gradient,) = gradients  # [A, 1, out]
        rows, weight = ctx.saved_tensors
        of_rows = torch.bmm(gradient, weight) if ctx.needs_input_grad[0] else None
        return of_rows, torch.mul(gradient.mT, rows, out=ctx.into), gradient[:, 0], None


def _tuple(outputs: Any) -> tuple[Tensor | None, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _by_agent(item: Any, num_agents: int) -> Any:
    if isinstance(item, dict):
        return {key: _by_agent(value, num_agents) for key, value in item.items()}
    return item.view(num_agents, -1, *item.shape[1:]) if isinstance(item, torch.Tensor) else item
