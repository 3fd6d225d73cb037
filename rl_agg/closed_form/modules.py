"""Torch's modules as layers, if there is a closed form of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from torch import nn

from rl_agg.closed_form.activations import IDENTITY, activation_of
from rl_agg.closed_form.layers import LinearLayer

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NoClosedFormError(Exception):
    """What there is no closed form of."""


def check_hooks(module: nn.Module) -> None:
    """Check that nothing takes part in a module's evaluation but what its class says.

    :raises NoClosedFormError: naming the part of it that has a hook, or a ``forward()`` of its own.
    """
    for part in module.modules():
        if "forward" in vars(part) or any(getattr(part, hooks) for hooks in HOOKS):
            raise NoClosedFormError(f"a {type(part).__name__} has hooks or a forward() of its own")
    if nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        raise NoClosedFormError("modules have global hooks")


def linear_layers(*modules: nn.Module) -> list[LinearLayer]:
    """Linear layers, each with the activation that follows it.

    :param modules: One after the other; sequences of them count as theirs.
    :raises NoClosedFormError: naming the one that is neither a linear layer nor a known activation behind one.
    """
    layers: list[LinearLayer] = []
    for module in _one_by_one(modules):
        if type(module) is nn.Linear:
            weight: Any = module.weight
            layers.append(LinearLayer(weight, module.bias, IDENTITY))
            continue
        activation = activation_of(module)
        if activation is None:
            raise NoClosedFormError(f"layer {type(module).__name__}")
        if activation is IDENTITY:
            continue
        if not layers or layers[-1].activation is not IDENTITY:
            raise NoClosedFormError(f"{type(module).__name__} does not follow a linear layer")
        layers[-1] = layers[-1]._replace(activation=activation)
    return layers


def _one_by_one(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if type(module) is nn.Sequential:
            yield from _one_by_one(module)
        else:
            yield module


def check_parameters(module: nn.Module, layers: Iterable[LinearLayer], others: Collection[Any] = ()) -> list[nn.Parameter]:
    """Check that a module's parameters are those of layers, and of one kind.

    :param module: All of it.
    :param layers: Of its networks.
    :param others: Parameters that are in no layer.
    :return: Those that are trained.
    :raises NoClosedFormError: naming the one that is not.
    """
    known = {id(item) for layer in layers for item in (layer.weight, layer.bias)} | set(map(id, others))
    for name, parameter in module.named_parameters():
        if id(parameter) not in known:
            raise NoClosedFormError(f"parameter {name} is in no layer of the networks")
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise NoClosedFormError(f"parameter {name} has a hook")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if len({(parameter.dtype, parameter.device) for parameter in module.parameters()}) > 1 or not trained:
        raise NoClosedFormError("parameters of several types or devices, or none that is trained")
    return trained
