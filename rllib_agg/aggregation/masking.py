"""Taking an agent out of a batch before its data can poison the others'."""

from __future__ import annotations

from typing import Any

import torch
import tree  # type: ignore[import-untyped]
from ray.rllib.core.columns import Columns
from torch import Tensor

from rllib_agg.aggregation.agents import AGENT

INPUTS = (Columns.OBS, Columns.REWARDS, Columns.ACTION_LOGP)


def loss_mask(data: dict[str, Any]) -> Tensor:
    """Samples that count, in the shape of the agent column, bool."""
    mask = data.get(Columns.LOSS_MASK)
    return torch.ones_like(data[AGENT], dtype=torch.bool) if mask is None else mask.bool()


def corrupt_rows(data: dict[str, Any]) -> Tensor:
    """Find samples whose observation, reward or log-probability is not finite.

    :param data: One module's columns, each ``[B, ...]`` or ``[B, T, ...]``.
    :return: bool, in the shape of the agent column. Logits are not looked at: minus infinity masks an action there.
    """
    rows = torch.zeros_like(data[AGENT], dtype=torch.bool)
    for leaf in tree.flatten([data[name] for name in INPUTS if name in data]):
        if leaf.is_floating_point():
            rows |= ~leaf.isfinite().flatten(rows.dim()).all(-1) if leaf.dim() > rows.dim() else ~leaf.isfinite()
    return rows


def exclude_rows(data: dict[str, Any], rows: Tensor) -> None:
    """Take samples out of the loss, and keep their data from reaching anything else.

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


def exclude_corrupt_agents(data: dict[str, Any]) -> None:
    """Exclude every sample of an agent that has one corrupt sample.

    :param data: One module's columns; changed in place.
    :raises ValueError: if the batch does not say whose samples it holds.
    """
    if AGENT not in data:
        raise ValueError(
            f"the batch does not say whose samples it holds: column {AGENT!r} is missing; sample it with env runners that "
            "run rllib_agg's AgentTagging callback"
        )
    rows = corrupt_rows(data)
    if bool(rows.any()):
        exclude_rows(data, torch.isin(data[AGENT], data[AGENT][rows]))
