"""DQN's loss per sample. Axes: B samples, U actions, Z atoms."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.dqn.dqn_learner import (
    ATOMS,
    QF_LOGITS,
    QF_NEXT_PREDS,
    QF_PREDS,
    QF_TARGET_NEXT_PREDS,
    QF_TARGET_NEXT_PROBS,
)
from ray.rllib.core.columns import Columns
from torch import Tensor
from torch.nn import functional

from rllib_agg.replay.learner import ReplayLearnerMixin


class AggDQNTorchLearner(ReplayLearnerMixin):
    """DQN's learner with the agents' gradients weighted.

    Source: Mnih et al. (2015), algorithm 1, with what Hessel et al. (2018) add, as RLlib has it; Holen et al. (2023),
    section 3.
    """

    def finish_batch(self, config: Any, data: dict[str, Any], *, excluded: bool, num_learners: int) -> None:
        """Leave the steps out that only warm a recurrent module's state up."""
        if config.burn_in_len and Columns.LOSS_MASK in data:
            mask = data[Columns.LOSS_MASK].clone()
            mask[:, : config.burn_in_len] = False
            data[Columns.LOSS_MASK] = mask

    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """Error of each sample's action value, with its importance weight."""
        self.report_by_stock_loss(module_id, config, batch, fwd_out)
        judged = fwd_out[QF_NEXT_PREDS if config.double_q else QF_TARGET_NEXT_PREDS]
        best = judged.argmax(dim=-1, keepdim=True)
        errors = _cross_entropies if config.num_atoms > 1 else _squared_or_huber
        losses: Tensor = batch["weights"] * errors(config, batch, fwd_out, best)
        return losses


def _squared_or_huber(config: Any, batch: dict[str, Any], fwd_out: dict[str, Any], best: Tensor) -> Tensor:
    """Of a value that is one number.

    :param best: The next action ``[B, 1]``.
    """
    values = _chosen(fwd_out[QF_PREDS], batch[Columns.ACTIONS].long().unsqueeze(-1))
    following = (1.0 - batch[Columns.TERMINATEDS].float()) * _chosen(fwd_out[QF_TARGET_NEXT_PREDS], best)
    targets = (batch[Columns.REWARDS] + config.gamma ** batch["n_step"] * following).detach()
    loss = functional.huber_loss if config.td_error_loss_fn == "huber" else functional.mse_loss
    return loss(values, targets, reduction="none")


def _chosen(values: Tensor, actions: Tensor) -> Tensor:
    """The value of each sample's action; masked actions are minus infinity."""
    return values.gather(-1, actions).nan_to_num(neginf=0.0).squeeze(-1)


def _cross_entropies(config: Any, batch: dict[str, Any], fwd_out: dict[str, Any], best: Tensor) -> Tensor:
    """Of a value's distribution over atoms, from its target's projected onto them.

    Source: Bellemare et al. (2017), algorithm 1.

    :param best: The next action ``[B, 1]``.
    """

    def of_action(columns: Tensor, actions: Tensor) -> Tensor:  # [B, U, Z] to [B, Z]
        return columns.gather(1, actions.view(-1, 1, 1).expand(-1, 1, config.num_atoms).long()).squeeze(1)

    following = of_action(fwd_out[QF_TARGET_NEXT_PROBS], best)
    discounts = config.gamma ** batch["n_step"] * (1.0 - batch[Columns.TERMINATEDS].float())
    atoms = batch[Columns.REWARDS].unsqueeze(-1) + discounts.unsqueeze(-1) * fwd_out[ATOMS]
    places = (atoms.clamp(config.v_min, config.v_max) - config.v_min) / (
        (config.v_max - config.v_min) / float(config.num_atoms - 1.0)
    )
    below, above = places.floor(), places.ceil()
    on_atom = ((above - below) < 0.5).float()
    shares = (following * (above - places + on_atom), following * (places - below))  # [B, Z] each
    projected = [
        (functional.one_hot(where.long(), config.num_atoms) * share.unsqueeze(-1)).sum(1)
        for where, share in zip((below, above), shares, strict=True)
    ]
    targets = (projected[0] + projected[1]).detach()
    logits = of_action(fwd_out[QF_LOGITS], batch[Columns.ACTIONS])
    return functional.cross_entropy(logits, targets, reduction="none")
