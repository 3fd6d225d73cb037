"""Adam as one kernel of torch's."""

from __future__ import annotations

from typing import Any

import torch


def fuse(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let an Adam, however its groups are made, step with torch's fused kernel, unless a kernel was chosen."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW) or device.type not in ("cpu", "cuda"):
        return
    for group in (optimizer.defaults, *optimizer.param_groups):
        if group["fused"] is None and group["foreach"] is None and not (group["capturable"] or group["differentiable"]):
            group["fused"] = True


def fused_as(optimizer: torch.optim.Optimizer, parameters: dict[str, Any]) -> dict[str, Any]:
    """A file's ``parameters``, with an optimiser's state that asks for the kernel which ``optimizer`` has."""
    saved = parameters.get("policy.optimizer")
    if saved is None or "fused" not in optimizer.defaults:
        return parameters
    groups = [{**group, "fused": optimizer.defaults["fused"]} for group in saved["param_groups"]]
    return {**parameters, "policy.optimizer": {**saved, "param_groups": groups}}
