"""IMPALA's loss per sample."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY
from torch import Tensor

from rllib_agg.aggregation.learner import AggLearnerMixin
from rllib_agg.impala.lost_episodes import LostEpisodesMixin
from rllib_agg.impala.vtrace import TimeMajor, vtrace


class AggIMPALATorchLearner(LostEpisodesMixin, AggLearnerMixin, IMPALATorchLearner):  # type: ignore[misc]  # remove_module, within RLlib
    """IMPALA's learner with the agents' gradients weighted.

    Source: Espeholt et al. (2018), section 4.2, as RLlib has it; Holen et al. (2023), section 3.
    """

    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """V-trace policy gradient, value error and entropy bonus of each sample."""
        module = self.module[module_id].unwrapped()
        major = TimeMajor(batch, config.get_rollout_fragment_length())
        mask = batch[Columns.LOSS_MASK].float()
        distribution = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        logp = major(distribution.logp(batch[Columns.ACTIONS]))
        values = major(module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS)))
        targets, advantages = vtrace(batch, config, major, values=values, target_logp=logp)

        policy_losses = major.back(-logp * advantages)
        value_losses = major.back(0.5 * (values - targets).square())
        entropy = distribution.entropy()
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()

        columns = {"pi_loss": policy_losses.detach(), "vf_loss": value_losses.detach(), ENTROPY_KEY: entropy.detach()}

        def report() -> dict[str, Any]:
            totals, valid = {name: (column * mask).sum() for name, column in columns.items()}, mask.sum()
            means = {f"mean_{name}": totals[name] / valid for name in ("pi_loss", "vf_loss")}
            return {**totals, **means, ENTROPY_KEY: totals[ENTROPY_KEY] / valid}

        self.reports[module_id] = report
        losses: Tensor = policy_losses + config.vf_loss_coeff * value_losses - entropy_coeff * entropy
        return losses
