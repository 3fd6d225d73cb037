r"""Advantages, and over whom they are standardised.

RLlib standardises over the learner's whole shard, bootstrap steps included, so that one agent's scale affects another's and
the result depends on the number of learners. ``"agent"`` standardises each agent's own, over all learners, as
:func:`rl_agg.advantages.standardized` says.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rl_agg.advantages import standardized
from rllib_agg.aggregation.agents import AGENT
from rllib_agg.aggregation.sums_by_agent import sum_by_agent

RAW_ADVANTAGES = "agg_raw_advantages"
ESTIMATED = "agg_estimated_advantages"
"""What RLlib made of them, to tell whether a connector has changed that."""
NORM_CHOICES = ("stock", "agent", "none")
MIN_STD = 1e-4
"""RLlib's own floor under the standard deviation."""


class RawAdvantageEstimation(GeneralAdvantageEstimation):
    """RLlib's GAE, which also keeps the advantages as they were before standardisation."""

    def __init__(self, *, gamma: float, lambda_: float) -> None:
        super().__init__(gamma=gamma, lambda_=lambda_)  # type: ignore[no-untyped-call]

    def __call__(self, *, rl_module: Any, episodes: list[Any], batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        values: Any = _RecordedValues(rl_module)
        batch = super().__call__(rl_module=values, episodes=episodes, batch=batch, **kwargs)
        for module_id, predictions in values.recorded.items():
            if predictions is not None:
                data = batch[module_id]
                data[RAW_ADVANTAGES] = data[Postprocessing.VALUE_TARGETS] - predictions.detach()
                data[ESTIMATED] = data[Postprocessing.ADVANTAGES].clone()
        return batch


class _RecordedValues:
    """A MultiRLModule that keeps the value predictions it made, which GAE computes and drops."""

    def __init__(self, rl_module: Any) -> None:
        self._rl_module = rl_module
        self.recorded: dict[str, Tensor | None] = {}

    def foreach_module(self, *args: Any, **kwargs: Any) -> dict[str, Tensor | None]:
        self.recorded = self._rl_module.foreach_module(*args, **kwargs)
        return self.recorded

    def __getitem__(self, module_id: str) -> Any:
        return self._rl_module[module_id]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rl_module, name)


def take_raw_advantages(data: dict[str, Any], replaced_by: str | None) -> Tensor:
    """Remove the raw advantages from a module's columns.

    :param replaced_by: What replaces those that RLlib made of them; ``None``: nothing.
    :raises ValueError: if a connector has changed what is replaced.
    """
    raw: Tensor = data.pop(RAW_ADVANTAGES)
    estimated, found = data.pop(ESTIMATED), data[Postprocessing.ADVANTAGES]
    if replaced_by is not None and not torch.allclose(estimated, found, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            f"{replaced_by} replaces RLlib's advantages, so that what a connector made of them after their estimation would "
            "not act; let it change the rewards before"
        )
    return raw


def finish_advantages(data: dict[str, Any], norm: str, *, num_agents: int, num_learners: int, excluded: bool) -> None:
    """Replace the advantages by those that ``norm`` asks for and drop the raw ones.

    :param data: One module's columns; changed in place.
    :param norm: ``"stock"``, ``"agent"`` or ``"none"``.
    :param num_agents: A.
    :param num_learners: All of them must call this at the same point.
    :param excluded: Whether an agent is excluded from this batch: its blank rows must not stay in the statistics that
        ``"stock"`` has already taken. New ones are taken of the valid rows alone, for what RLlib computes at a bootstrap step
        depends on which episode comes next in the batch.
    :raises ValueError: if the batch came without raw advantages and others than RLlib's are asked for.
    """
    if RAW_ADVANTAGES not in data:  # a batch that no connector of ours has made
        if norm != "stock":
            raise ValueError(
                f"advantage_norm={norm!r} needs episodes: a batch holds advantages that were standardised already; give "
                "episodes=..., or leave advantage_norm='stock'"
            )
        return
    raw = take_raw_advantages(data, f"advantage_norm={norm!r}" if norm != "stock" else None)
    valid = data[Columns.LOSS_MASK]
    if norm == "none":
        data[Postprocessing.ADVANTAGES] = raw
    elif norm == "agent":
        data[Postprocessing.ADVANTAGES] = standardise_by_agent(raw, data[AGENT], valid, num_agents, num_learners=num_learners)
    elif excluded and bool(valid.any()):
        kept = raw[valid]
        spread = kept.std(correction=0).clamp(min=MIN_STD)
        data[Postprocessing.ADVANTAGES] = (raw - kept.mean()) / spread


def standardise_by_agent(raw: Tensor, agents: Tensor, valid: Tensor, num_agents: int, *, num_learners: int) -> Tensor:
    """Give each agent's advantages mean 0 and standard deviation 1, over all learners.

    :param raw: ``[B]`` or ``[B, T]``; ``agents``, and ``valid`` of the samples that count, have its shape.
    :return: In the shape and dtype of ``raw``.
    """
    rows, counts, whose = raw.double(), valid.double(), agents.reshape(-1)
    first = torch.stack([(rows * counts).reshape(-1), counts.reshape(-1)])
    total, n = sum_by_agent(first, whose, num_agents, num_learners=num_learners)
    mean = total / n.clamp(min=1.0)
    squares = ((rows - mean[agents]).square() * counts).reshape(1, -1)
    sums = sum_by_agent(squares, whose, num_agents, num_learners=num_learners)[0]
    standardised: Tensor = standardized(rows, mean[agents], sums[agents], n[agents]).to(raw.dtype)
    return standardised
