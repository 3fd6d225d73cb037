r"""Weighted QMIX: monotonic values that are fitted best where joint actions are good.

.. math::
    L &= w \, (Q_{tot}(\tau, u) - y)^2 + (Q^*(\tau, u) - y)^2 \\
    y_t &= r_t + \gamma \left((1 - \lambda) Q^{*-}(\tau_{t+1}, \bar u_{t+1}) + \lambda y_{t+1}\right)

with the greedy actions :math:`\bar u` of :math:`Q_{tot}`. The weight is 1 or, elsewhere, alpha:

- ``optimistic``: 1 where :math:`Q_{tot}(\tau, u) < y`;
- ``central``: 1 where :math:`u = \bar u`, or :math:`y > Q^{*-}(\tau, \bar u)`.

Axes: B episodes, T time, n agents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_agg.qmix.losses import TeamBatch, TeamLoss, greedy, pick, td_measures
from rllib_agg.qmix.mixer import mix
from rllib_agg.qmix.module import QMIXModule

ALPHAS = {"optimistic": 0.5, "central": 0.75}
"""By weighting, what the paper takes on SMAC; on its predator and prey it takes 0.1 for both."""


class WeightedLoss(TeamLoss):
    """The mean of both errors over steps.

    Source: Rashid et al. (2020). As in their code, ``central`` compares with the target networks.
    """

    def __call__(self, team: QMIXModule, batch: TeamBatch) -> dict[str, Tensor]:
        """The losses, the weights, the error of the monotonic values, these, and their targets."""
        central, target, config = team.central, team.target_central, self.config
        assert central is not None
        assert target is not None
        states, start, observed = batch.states[:, :-1], batch.start, batch.observed
        values, _ = team.networks(batch.inputs, start, observed)  # [B, T+1, n, a]
        central_values, _ = central.networks(batch.inputs[:, :-1], start, observed)
        with torch.no_grad():
            best = greedy(values, batch.masks)
            target_values, _ = target.networks(batch.inputs, start, observed)
            judge = best if config.double_q else greedy(team.target_networks(batch.inputs, start, observed)[0], batch.masks)
            targets = self.targets(batch, target.mix(pick(target_values[:, 1:], judge[:, 1:]), batch.states[:, 1:]))
        total = mix(team.mixer, pick(values[:, :-1], batch.actions), states)  # [B, T, 1]
        with torch.no_grad():
            if config.weighting == "optimistic":
                good = total < targets
            else:
                is_best = (batch.actions == best[:, :-1]).all(-1, keepdim=True)
                good = is_best | (targets > target.mix(pick(target_values[:, :-1], best[:, :-1]), states))
            alpha = ALPHAS[config.weighting] if config.weighting_alpha is None else config.weighting_alpha
            weights = torch.where(good, 1.0, alpha)
        valid, count = batch.valid, batch.valid.sum()
        errors = torch.where(valid, total - targets, 0.0)
        weighted = (weights * errors.square()).sum() / count
        central_loss = td_measures(central.mix(pick(central_values, batch.actions), states), targets, valid)["total_loss"]
        return {
            **td_measures(total, targets, valid),
            "total_loss": weighted + central_loss,
            "weighted_loss": weighted,
            "central_loss": central_loss,
            "weight_mean": torch.where(valid, weights, 0.0).sum() / count,
        }
