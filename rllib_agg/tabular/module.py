"""Tables of action values as RLModules, for evaluation, inference and checkpoints. Axes: C cells, U actions, P parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor, nn


class TableModule(TorchRLModule):
    """Acts on action values ``[C, U]``, and holds the parameters ``[P]`` that they come from."""

    observation_space: Any
    action_space: Any
    model_config: Any

    def setup(self) -> None:
        """Allocate both."""
        self.shape = (int(self.observation_space.n), int(self.action_space.n))
        self.theta = nn.Parameter(torch.zeros(self.num_parameters), requires_grad=False)
        self.register_buffer("action_values", torch.zeros(self.shape))

    @property
    def num_parameters(self) -> int:
        """P: a value for each cell and action."""
        return self.shape[0] * self.shape[1]

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        cells = batch[Columns.OBS].long() - int(self.observation_space.start)
        return {Columns.ACTION_DIST_INPUTS: self.action_values[cells]}

    def read(self) -> NDArray[np.float32]:
        """Parameters ``[P]``."""
        theta: NDArray[np.float32] = self.theta.detach().cpu().numpy().copy()
        return theta

    @torch.no_grad()
    def write(self, theta: NDArray[np.float32], action_values: NDArray[np.float32]) -> None:
        """Take over parameters ``[P]`` and action values ``[C, U]``."""
        self.theta.copy_(torch.from_numpy(theta))
        self.action_values.copy_(torch.from_numpy(action_values.copy()))


class LinearModule(TableModule):
    """Parameters of a linear function of cells' features."""

    @property
    def num_parameters(self) -> int:
        """P: one for each feature, or for each cell; or as many for each action."""
        columns = self.shape[1] if self.model_config.get("per_action") else 1
        return int(self.model_config.get("num_features", self.shape[0])) * columns
