"""Keeps an env runner alive when one of its environments sends NaN or infinity.

The distribution over actions would be NaN, sampling from it would raise, and the runner's other environments would be lost
too. The module sees zeros instead; the episode keeps what the environment sent, so that the learner masks the agent.
"""

from __future__ import annotations

from typing import Any

import torch
import tree  # type: ignore[import-untyped]
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns


class FiniteObservations(ConnectorV2):
    """The last piece of an env-to-module pipeline."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Replace what is not finite, in the batch of the one module or of each."""
        for data in [batch] if Columns.OBS in batch else batch.values():
            data[Columns.OBS] = tree.map_structure(_finite, data[Columns.OBS])
        return batch


def _finite(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
        return leaf
    return leaf.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
