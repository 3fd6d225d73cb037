"""All parameters in a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def parameters(model: Any) -> Tensor:
    return flat(model.policy)
