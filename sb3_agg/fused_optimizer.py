"""The kernel of a loaded optimiser."""

from __future__ import annotations

from typing import Any

import torch


def fused_as(name: str, optimizer: torch.optim.Optimizer, parameters: dict[str, Any]) -> dict[str, Any]:
    """A file's ``parameters``, of which the state of the optimiser ``name`` selects the kernel of ``optimizer``."""
    saved, defaults = parameters.get(name), getattr(optimizer, "defaults", {})
    if not isinstance(saved, dict) or "param_groups" not in saved or "fused" not in defaults:
        return parameters
    groups = [{**group, "fused": defaults["fused"]} for group in saved["param_groups"]]
    return {**parameters, name: {**saved, "param_groups": groups}}
