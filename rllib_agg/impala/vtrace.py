"""V-trace in the shape that a reduction by agent needs: in by time, out by sample.

RLlib cuts the flat batch into rows of ``rollout_fragment_length`` steps and reduces over them, time first. The losses are the
same here; they only return to the order of the batch before they are reduced. T: time, R: rows, B: samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ray.rllib.algorithms.impala.torch.vtrace_torch_v2 import make_time_major, vtrace_torch
from ray.rllib.core.columns import Columns
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TimeMajor:
    """Converts the columns of one module's minibatch to and from rows of T steps."""

    batch: dict[str, Any]
    length: int

    def __call__(self, column: Tensor) -> Tensor:
        """``[B]``, or ``[R, T]`` for a recurrent module, to ``[T, R]``; the last row is padded with zeros."""
        lengths: Any = self.batch.get("seq_lens")
        major: Tensor = make_time_major(column, trajectory_len=self.length, recurrent_seq_len=lengths)
        return major

    def back(self, major: Tensor) -> Tensor:
        """``[T, R]`` to the shape of the batch, without the padding."""
        mask = self.batch[Columns.LOSS_MASK]
        rows = major.transpose(0, 1)
        return rows if mask.dim() == 2 else rows.reshape(-1)[: len(mask)]


def vtrace(
    batch: dict[str, Any], config: Any, major: TimeMajor, *, values: Tensor, target_logp: Tensor
) -> tuple[Tensor, Tensor]:
    """Value targets and policy-gradient advantages ``[T, R]``, detached.

    :param values: ``[T, R]``.
    :param target_logp: Log-probabilities under the policy that V-trace corrects to, ``[T, R]``.

    Source: Espeholt et al. (2018), equation 1; equations 2 to 4 in Holen et al. (2023). As RLlib's IMPALA has it.
    """
    mask = major(batch[Columns.LOSS_MASK].float())
    # The value after a row's last step is the first of the next row; where an episode ends, its discount is zero.
    bootstrap = torch.cat([values[0][1:], values[0][:1]])
    targets, advantages = vtrace_torch(
        target_action_log_probs=target_logp,
        behaviour_action_log_probs=major(batch[Columns.ACTION_LOGP]),
        discounts=(1.0 - major(batch[Columns.TERMINATEDS]).float()) * config.gamma * mask,
        rewards=major(batch[Columns.REWARDS]),
        values=values,
        bootstrap_values=bootstrap,
        clip_rho_threshold=config.vtrace_clip_rho_threshold,
        clip_pg_rho_threshold=config.vtrace_clip_pg_rho_threshold,
    )
    return targets, advantages * mask
