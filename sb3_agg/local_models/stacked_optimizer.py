"""One optimiser for the parameters of many agents. Axes: A agents, P parameters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import Tensor
from torch.optim import ASGD, SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop, Rprop

from rl_agg.payloads import merge

ELEMENTWISE: tuple[type[Optimizer], ...] = (
    ASGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Adamax,
    NAdam,
    RAdam,
    RMSprop,
    RMSpropTFLike,
    Rprop,
    SGD,
)
"""Optimisers that treat every number separately, so that the shape of tensors does not matter."""


class StackedOptimizer:
    """Step for A agents at once, for each as an optimiser of its own would.

    While all agents step together, their parameters are one tensor to the optimiser. After an agent has skipped a step, each
    has its own tensor: Adam and others count the steps of a tensor.

    :param parameters: ``[A, P]``, changed in place.
    :param optimizer: Of a type in :data:`ELEMENTWISE`, with one group of parameters; type and settings are taken from it.
    :raises ValueError: if its type is another.
    """

    gradients: Tensor
    """The gradients of the next step ``[A, P]``; write here."""

    def __init__(self, parameters: Tensor, optimizer: Optimizer) -> None:
        self._class = type(optimizer)
        if self._class not in ELEMENTWISE:
            raise ValueError(
                f"optimizer_class {self._class.__name__} cannot step for several agents at once; choose from "
                f"{', '.join(sorted(known.__name__ for known in ELEMENTWISE))}"
            )
        (group,) = optimizer.param_groups
        self._settings = {name: group[name] for name in inspect.signature(self._class).parameters if name in group}
        del self._settings["params"]
        self._parameters = parameters
        self.gradients = torch.zeros_like(parameters)
        self.reset()

    @property
    def _parted(self) -> bool:
        return len(self._tensors) > 1

    def step(self, settings: Mapping[str, Any], stepping: Tensor | None = None) -> None:
        """Take a step with :attr:`gradients`.

        :param settings: Of all agents from now on, as a group of an optimiser's parameters has them: ``lr``, ``betas``, ...
        :param stepping: The agents that step ``[A]``, bool; ``None``: all. The others' parameters and moments do not change.
        """
        if stepping is not None and bool(stepping.all()):
            stepping = None
        if stepping is not None and not self._parted:
            if not bool(stepping.any()):
                return
            self._part()
        if self._parted:
            takes = [True] * len(self._tensors) if stepping is None else stepping.tolist()
            for tensor, gradient, steps in zip(self._tensors, self.gradients, takes, strict=True):
                tensor.grad = gradient if steps else None
        self._settings.update({name: value for name, value in settings.items() if name in self._settings})
        for group in self._optimizer.param_groups:
            group.update(self._settings)
        self._optimizer.step()

    def reset(self) -> None:
        """Drop all moments."""
        self._set_up([self._parameters])

    def merge(self, weights: Tensor) -> None:
        """Replace all agents' moments and step counts by their averages.

        :param weights: ``[A]``, >= 0, with a positive sum. Agents without moments do not count.
        """
        states = [self._optimizer.state.get(tensor, {}) for tensor in self._tensors]
        known = [agent for agent, state in enumerate(states) if state]
        if not self._parted:
            for value in states[0].values():
                if _is_row(value, self._parameters):
                    value.copy_(merge([value], weights)[0])
        elif known and bool(weights[known].sum() > 0):
            for name, value in states[known[0]].items():
                if isinstance(value, Tensor):
                    stacked = torch.stack([states[agent][name] for agent in known])
                    value = merge([stacked], weights[known].to(stacked.device))[0]
                for tensor in self._tensors:
                    self._optimizer.state[tensor][name] = copy.deepcopy(value)

    @property
    def num_moments(self) -> int:
        """Numbers that it keeps for one agent."""
        states = (self._optimizer.state.get(tensor, {}) for tensor in self._tensors)
        values = next((list(state.values()) for state in states if state), [])
        own = (value[0] if _is_row(value, self._parameters) else value for value in values)
        return sum(value.numel() for value in own if isinstance(value, Tensor))

    def _part(self) -> None:
        common = self._optimizer.state.get(self._parameters, {})
        self._set_up(list(self._parameters.unbind()))
        for agent, tensor in enumerate(self._tensors):
            for name, value in common.items():
                own = value[agent] if _is_row(value, self._parameters) else copy.deepcopy(value)
                self._optimizer.state[tensor][name] = own

    def _set_up(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._optimizer = self._class(tensors, **self._settings)
        if not self._parted:
            self._parameters.grad = self.gradients

    def state_dict(self) -> dict[str, Any]:
        """Moments and counters."""
        return {"state": [dict(self._optimizer.state.get(tensor, {})) for tensor in self._tensors]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` of as many agents."""
        self.reset()
        if len(state["state"]) > 1:
            self._part()
        groups = self._optimizer.state_dict()["param_groups"]
        states = {index: own for index, own in enumerate(copy.deepcopy(state["state"])) if own}
        self._optimizer.load_state_dict({"state": states, "param_groups": groups})


def _is_row(value: Any, parameters: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameters.shape
