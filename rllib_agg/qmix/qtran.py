r"""QTRAN-base: joint values of any shape, and agents' values that are brought to agree with them.

.. math::
    L &= L_{td} + \lambda_{opt} L_{opt} + \lambda_{nopt} L_{nopt} \\
    L_{td} &= (Q_{jt}(\tau, u) - y)^2 \\
    L_{opt} &= \left(\textstyle\sum_i Q_i(\tau_i, \bar u_i) - Q_{jt}(\tau, \bar u) + V_{jt}(\tau)\right)^2 \\
    L_{nopt} &= \min\left(\textstyle\sum_i Q_i(\tau_i, u_i) - Q_{jt}(\tau, u) + V_{jt}(\tau), 0\right)^2

with the greedy actions :math:`\bar u_i`, and :math:`Q_{jt}` held fixed in the last two.

Axes: B episodes, T time, n agents, a actions, H units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rllib_agg.qmix.joint import JointValues
from rllib_agg.qmix.losses import TeamBatch, TeamLoss, greedy, pick, td_measures
from rllib_agg.qmix.module import QMIXModule


class QTRANLoss(TeamLoss):
    """The mean of all three over steps.

    Source: Son et al. (2019), QTRAN-base. Differs: double Q-learning and targets of several steps, where they are set.
    """

    def __call__(self, team: QMIXModule, batch: TeamBatch) -> dict[str, Tensor]:
        """The losses, the error, the joint values and their targets."""
        joint, target_joint, config = team.mixer, team.target_mixer, self.config
        assert isinstance(joint, JointValues)
        assert isinstance(target_joint, JointValues)
        states = batch.states[:, :-1]
        hidden = team.networks.encode(batch.inputs, batch.start, batch.observed)
        values, seen = team.networks.evaluate(hidden), team.networks.by_agent(hidden)[:, :-1]  # [B, T+1, n, a], [B, T, n, H]
        with torch.no_grad():
            best = greedy(values, batch.masks)
            next_hidden = team.target_networks.encode(batch.inputs, batch.start, batch.observed)
            judge = best if config.double_q else greedy(team.target_networks.evaluate(next_hidden), batch.masks)
            next_values = target_joint(team.target_networks.by_agent(next_hidden)[:, 1:], judge[:, 1:], batch.states[:, 1:])
            targets = self.targets(batch, next_values)
            best_value = joint(seen, best[:, :-1], states)
        taken = joint(seen, batch.actions, states)  # [B, T, 1]
        state_value = joint.state_value(states)
        best_sum, taken_sum = (
            pick(values[:, :-1], actions).sum(-1, keepdim=True) for actions in (best[:, :-1], batch.actions)
        )
        valid, count = batch.valid, batch.valid.sum()
        of_best = torch.where(valid, best_sum - best_value + state_value, 0.0)
        of_taken = torch.where(valid, taken_sum - taken.detach() + state_value, 0.0).clamp(max=0)
        measures = td_measures(taken, targets, valid)
        losses = {
            "td_loss": measures["total_loss"],
            "opt_loss": of_best.square().sum() / count,
            "nopt_loss": of_taken.square().sum() / count,
        }
        total = losses["td_loss"] + config.lambda_opt * losses["opt_loss"] + config.lambda_nopt * losses["nopt_loss"]
        return {**measures, **losses, "total_loss": total}
