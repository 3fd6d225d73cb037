"""Torch's modules as layers, if there is a closed form of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from typing import Any

from torch import nn

from rl_agg.closed_form.activations import IDENTITY, activation_of
from rl_agg.closed_form.layers import LinearLayer

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NoClosedFormError(Exception):
    """Raised where there is no closed form; the message names what has none."""


def check_hooks(module: nn.Module) -> None:
    """Check that nothing takes part in the evaluation of a module's parts but what their classes say.

    :raises NoClosedFormError: naming the part that has a hook, or a method that is not its class's.
    """
    for part in module.modules():
        if any(getattr(part, hooks) for hooks in HOOKS):
            raise NoClosedFormError(f"a {type(part).__name__} has hooks")
        if part is not module:
            check_methods(part)
    if nn.modules.module._has_any_global_hook():  # type: ignore[no-untyped-call]
        raise NoClosedFormError("modules have global hooks")


def check_methods(item: Any) -> None:
    """Check that an object's methods are those of its class.

    :raises NoClosedFormError: naming one that is not.
    """
    kind: Any = type(item)
    for name in vars(item).keys() & _methods(kind):
        raise NoClosedFormError(f"a {type(item).__name__} has a {name}() of its own")


@cache
def _methods(kind: type) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name)))


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
    if not layers or layers[-1].activation is not IDENTITY:
        raise NoClosedFormError("the last layer is not linear")
    return layers


def _one_by_one(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if type(module) is nn.Sequential:
            yield from _one_by_one(module)
        else:
            yield module


def _is_shared(parameter: Any) -> bool:
    return parameter.device.type == "cpu" and bool(parameter.is_shared())


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
    if any(_is_shared(parameter) for parameter in module.parameters()):
        raise NoClosedFormError("parameters are in shared memory, where other processes look for them")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if len({(parameter.dtype, parameter.device) for parameter in module.parameters()}) > 1 or not trained:
        raise NoClosedFormError("parameters of several types or devices, or none that is trained")
    return trained
