"""An optimiser's steps, taken on one vector of all its parameters. Axis P: parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from rl_agg.closed_form.memory import FlatParameters
from rl_agg.per_agent_gradients import unflatten

KERNELS = {"_fused_adam_", "_fused_adamw_"} & set(dir(torch))
"""What Adam and AdamW call where they are fused. The kernel takes a quarter of the time of their ``step()``."""


class FlatOptimizer:
    """Steps for an optimiser whose parameters are views of one vector.

    Its moments become views as well, so that whoever reads or saves the optimiser finds what its own steps would have left.

    :param optimizer: One that treats every number separately, with one group of parameters.
    :param flat: Those of its parameters that are trained.
    """

    def __init__(self, optimizer: Optimizer, flat: FlatParameters) -> None:
        self._outer, self._flat = optimizer, flat
        self.leaf = nn.Parameter(flat.values)
        self.leaf.grad = flat.gradients
        known = inspect.signature(type(optimizer)).parameters
        (group,) = optimizer.param_groups
        settings = {name: group[name] for name in known if name in group and name != "params"}
        self.own = type(optimizer)([self.leaf], **{**settings, "lr": 0.0})  # its own is taken over later, be it below 0
        """Holds the moments ``[P]`` of :attr:`leaf`."""
        self._views: list[dict[str, Tensor]] = []
        self._kernel: Callable[[], None] | None = None

    def adopt(self) -> bool:
        """Take over the optimiser's settings and, where they are not the ones left here, its moments.

        :return: Whether its parameters have all taken the same number of steps; otherwise they cannot be one vector's.
        """
        states = [self._outer.state.get(parameter, {}) for parameter in self._flat.parameters]
        if not all(states):
            self.own.state.clear()
            self._views = []
        if any(states) and not (all(states) and self._take(states)):
            return False
        self.take_settings()
        return True

    def take_settings(self) -> None:
        """Take over the optimiser's settings: ``lr``, ``betas``, ..."""
        (group,) = self._outer.param_groups
        self.own.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
        self._kernel = self._fused_step()

    def _take(self, states: list[dict[str, Any]]) -> bool:
        parameters = self._flat.parameters
        pairs = zip(states, self._views, strict=True) if self._views else ()
        known = bool(self._views) and all(state.get(name) is view for state, views in pairs for name, view in views.items())
        taken: dict[str, Any] = {}
        for name, value in states[0].items():
            values = [state.get(name) for state in states]
            if all(_is_shaped(item, like) for item, like in zip(values, parameters, strict=True)):
                taken[name] = (
                    self.own.state[self.leaf][name] if known else torch.cat([state[name].reshape(-1) for state in states])
                )
            elif all(bool(item == value) for item in values):
                taken[name] = value.clone() if isinstance(value, Tensor) else value
            else:
                return False
        self.own.state[self.leaf] = taken
        if not known:
            self._link()
        return True

    def _link(self) -> None:
        """Make the optimiser's moments views of our own."""
        parameters = self._flat.parameters
        self._views = [{} for _ in parameters]
        for name, value in self.own.state[self.leaf].items():
            if _is_shaped(value, self.leaf):
                for views, view in zip(self._views, unflatten(value, parameters), strict=True):
                    views[name] = view
        for parameter, views in zip(parameters, self._views, strict=True):
            self._outer.state[parameter].update(views)

    def step(self) -> None:
        """Step with the gradients in memory."""
        if self._kernel is not None:
            self._kernel()
            return
        self.own.step()
        if not self._views:
            self._link()
            self._kernel = self._fused_step()

    def _fused_step(self) -> Callable[[], None] | None:
        (group,) = self.own.param_groups
        state = self.own.state.get(self.leaf)
        if type(self.own) not in (Adam, AdamW) or not state or not group["fused"] or not isinstance(group["lr"], float):
            return None
        name = "_fused_adamw_" if group.get("decoupled_weight_decay", type(self.own) is AdamW) else "_fused_adam_"
        if name not in KERNELS:
            return None
        kernel = getattr(torch, name)
        moments = [state["exp_avg"], state["exp_avg_sq"]]
        most = [state["max_exp_avg_sq"]] if group["amsgrad"] else []
        count = state["step"]
        settings = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
        settings["beta1"], settings["beta2"] = group["betas"]

        def step() -> None:
            count.add_(1)
            kernel([self._flat.values], [self._flat.gradients], [moments[0]], [moments[1]], most, [count], **settings)

        return step

    def hand_back(self) -> None:
        """Give the optimiser what is counted once for all parameters; their moments it has."""
        for name, value in self.own.state.get(self.leaf, {}).items():
            if not _is_shaped(value, self.leaf):
                for parameter in self._flat.parameters:
                    self._outer.state[parameter][name] = value.clone() if isinstance(value, Tensor) else value


def _is_shaped(value: Any, like: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == like.shape
