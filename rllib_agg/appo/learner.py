"""APPO's loss per sample."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.appo.appo import (
    LEARNER_RESULTS_CURR_KL_COEFF_KEY,
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_MEAN_IS_KEY,
    LEARNER_RESULTS_VAR_IS_KEY,
)
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS
from torch import Tensor

from rllib_agg.aggregation.adaptive_kl import AdaptiveKLMixin
from rllib_agg.impala.lost_episodes import LostEpisodesMixin
from rllib_agg.impala.vtrace import TimeMajor, vtrace

MAX_IS_RATIO = 2.0
"""RLlib's bound on behaviour / target, which its ``target_worker_clipping`` setting does not reach."""


class AggAPPOTorchLearner(LostEpisodesMixin, AdaptiveKLMixin, APPOTorchLearner):  # type: ignore[misc]  # remove_module, within RLlib
    """APPO's learner with the agents' gradients weighted.

    Source: Luo et al. (2020), equation 5, as RLlib has it; Holen et al. (2023), section 3.
    """

    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """Clipped surrogate against the target network, value error, entropy bonus and KL penalty of each sample."""
        module = self.module[module_id].unwrapped()
        major = TimeMajor(batch, config.get_rollout_fragment_length())
        mask = batch[Columns.LOSS_MASK].float()
        actions = batch[Columns.ACTIONS]
        from_logits = module.get_train_action_dist_cls().from_logits
        distribution = from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        target = from_logits(module.forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS])
        logp, target_logp, behaviour_logp = distribution.logp(actions), target.logp(actions), batch[Columns.ACTION_LOGP]
        values = major(module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS)))
        targets, advantages_by_time = vtrace(batch, config, major, values=values, target_logp=major(target_logp))

        advantages = major.back(advantages_by_time)
        is_ratio = torch.exp(behaviour_logp - target_logp).clamp(0.0, MAX_IS_RATIO)
        ratio = is_ratio * torch.exp(logp - behaviour_logp)
        clipped = ratio.clamp(1 - config.clip_param, 1 + config.clip_param)
        policy_losses = -torch.minimum(advantages * ratio, advantages * clipped)
        value_losses = major.back(0.5 * (values - targets).square())
        entropy = distribution.entropy()
        kl = target.kl(distribution) if config.use_kl_loss else torch.zeros_like(mask)
        kl_coeff = self.curr_kl_coeffs_per_module[module_id]

        columns = {
            POLICY_LOSS_KEY: policy_losses.detach(),
            VF_LOSS_KEY: value_losses.detach(),
            ENTROPY_KEY: entropy.detach(),
            LEARNER_RESULTS_KL_KEY: kl.detach(),
            LEARNER_RESULTS_MEAN_IS_KEY: is_ratio.detach(),
        }

        def report() -> dict[str, Any]:
            means = {name: (column * mask).sum() / mask.sum() for name, column in columns.items()}
            squares = (columns[LEARNER_RESULTS_MEAN_IS_KEY] - means[LEARNER_RESULTS_MEAN_IS_KEY]).square()
            variance = (squares * mask).sum() / mask.sum()
            return {**means, LEARNER_RESULTS_VAR_IS_KEY: variance, LEARNER_RESULTS_CURR_KL_COEFF_KEY: kl_coeff}

        self.reports[module_id] = report
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()
        losses: Tensor = policy_losses + config.vf_loss_coeff * value_losses - entropy_coeff * entropy + kl_coeff * kl
        return losses
