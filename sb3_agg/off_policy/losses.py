"""The critics' loss of each sample, as ``train()`` averages it, for rules that weigh agents by their loss. Axis B: samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sb3_agg.patching import in_this_thread


@contextmanager
def noted(module: ModuleType, name: str, note: Callable[[Tensor], None]) -> Iterator[None]:
    """Temporarily let a loss function report what it averages in this thread.

    :param module: Where ``train()`` looks the function up.
    :param name: The function's; it takes estimates and targets ``[B, ...]`` first.
    :param note: Called with the losses ``[B]``, detached.
    """

    def reporting(loss: Callable[..., Tensor], estimates: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not estimates.requires_grad:
            return loss(estimates, targets, *args, **kwargs)
        unreduced = _unreduced if _can_be_unreduced(loss) else _under_vmap
        losses = unreduced(loss, estimates, targets, *args, **kwargs)
        note(losses.detach().view(len(losses), -1).mean(1))
        return losses.mean()

    with in_this_thread(module, name, reporting):
        yield


@cache
def _can_be_unreduced(loss: Callable[..., Tensor]) -> bool:
    return "reduction" in inspect.signature(loss).parameters


def _unreduced(loss: Callable[..., Tensor], estimates: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return loss(estimates, targets, *args, **{**kwargs, "reduction": "none"})


def _under_vmap(loss: Callable[..., Tensor], estimates: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def of_one(estimate: Tensor, target: Tensor) -> Tensor:
        return loss(estimate[None], target[None], *args, **kwargs)

    losses: Tensor = torch.func.vmap(of_one)(estimates, targets)
    return losses
