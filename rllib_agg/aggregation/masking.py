"""Taking agents with corrupt data out of a batch before their data reach those of others."""

from __future__ import annotations

from typing import Any

import torch
import tree  # type: ignore[import-untyped]
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_agg.aggregation.agents import AGENT

INPUTS = (Columns.OBS, Columns.NEXT_OBS, Columns.REWARDS, Columns.ACTION_LOGP)


class MaskCorruptAgents(ConnectorV2):
    """A piece of a learner's pipeline that excludes every sample of an agent that has a corrupt one.

    It comes before advantages are estimated: that recursion multiplies across episode borders by zero, and zero times NaN
    would carry one agent's NaN to all agents before it in the batch.
    """

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Mask the samples, in place, of modules whose batch says whose they are."""
        for data in batch.values():
            if AGENT in data and bool((rows := corrupt_rows(data)).any()):
                exclude_rows(data, torch.isin(data[AGENT], data[AGENT][rows]))
        return batch


def loss_mask(data: dict[str, Any]) -> Tensor:
    """Samples that count, in the shape of the agent column, bool."""
    mask = data.get(Columns.LOSS_MASK)
    return torch.ones_like(data[AGENT], dtype=torch.bool) if mask is None else mask.bool()


def corrupt_rows(data: dict[str, Any]) -> Tensor:
    """Find samples whose observations, reward or log-probability is not finite.

    :param data: One module's columns, each ``[B, ...]`` or ``[B, T, ...]``.
    :return: bool, in the shape of the agent column. Logits are not checked: minus infinity masks an action there.
    """
    rows = torch.zeros_like(data[AGENT], dtype=torch.bool)
    for leaf in tree.flatten([data[name] for name in INPUTS if name in data]):
        if leaf.is_floating_point():
            rows |= ~leaf.isfinite().flatten(rows.dim()).all(-1) if leaf.dim() > rows.dim() else ~leaf.isfinite()
    return rows


def exclude_rows(data: dict[str, Any], rows: Tensor) -> None:
    """Take samples out of the loss, and replace their data by zeros.

    A mask on the loss is not enough: the backward pass multiplies a zero gradient with the infinite input.

    :param data: One module's columns; changed in place.
    :param rows: Which, bool, in the shape of the agent column.
    """
    mask = data.get(Columns.LOSS_MASK)
    data[Columns.LOSS_MASK] = ~rows if mask is None else mask & ~rows

    def blank(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        return leaf.masked_fill(rows.reshape(rows.shape + (1,) * (leaf.dim() - rows.dim())), 0.0)

    for name, column in list(data.items()):
        if name not in (Columns.STATE_IN, Columns.SEQ_LENS):
            data[name] = tree.map_structure(blank, column)
