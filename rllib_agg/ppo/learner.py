"""PPO's loss per sample, and its advantages per agent."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import (
    LEARNER_RESULTS_KL_KEY,
    LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY,
    LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY,
)
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import GeneralAdvantageEstimation
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.torch_utils import explained_variance
from torch import Tensor

from rllib_agg.aggregation.adaptive_kl import AdaptiveKLMixin
from rllib_agg.aggregation.advantages import RawAdvantageEstimation, finish_advantages


class AggPPOTorchLearner(AdaptiveKLMixin, PPOTorchLearner):
    """PPO's learner with the agents' gradients weighted.

    Source: Schulman et al. (2017), equation 9, as RLlib has it; Holen et al. (2023), section 3.
    """

    def build(self) -> None:
        """Replace RLlib's advantage estimation by the one that keeps raw advantages."""
        super().build()
        pipeline = self.connector_pipeline
        pipeline.remove(GeneralAdvantageEstimation)
        pipeline.append(RawAdvantageEstimation(gamma=self.config.gamma, lambda_=self.config.lambda_))

    def finish_batch(self, config: Any, data: dict[str, Any], *, excluded: bool, num_learners: int) -> None:
        """Standardise the advantages as ``advantage_norm`` says."""
        finish_advantages(
            data, config.advantage_norm, num_agents=config.num_agents, num_learners=num_learners, excluded=excluded
        )

    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """Clipped surrogate, clipped value loss, entropy bonus and KL penalty of each sample."""
        module = self.module[module_id].unwrapped()
        distribution = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        ratio = torch.exp(distribution.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP])
        advantages = batch[Postprocessing.ADVANTAGES]
        clipped = torch.clamp(ratio, 1 - config.clip_param, 1 + config.clip_param)
        surrogate: Tensor = torch.min(advantages * ratio, advantages * clipped)
        entropy = distribution.entropy()
        entropy_coeff = self.entropy_coeff_schedulers_per_module[module_id].get_current_value()

        values = value_errors = clipped_errors = kl = torch.zeros_like(surrogate)
        if config.use_critic:
            values = module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS))
            value_errors = (values - batch[Postprocessing.VALUE_TARGETS]).square()
            clipped_errors = value_errors.clamp(0, config.vf_clip_param)
        losses: Tensor = -surrogate + config.vf_loss_coeff * clipped_errors - entropy_coeff * entropy
        if config.use_kl_loss:
            before = module.get_exploration_action_dist_cls().from_logits(batch[Columns.ACTION_DIST_INPUTS])
            kl = before.kl(distribution)
            losses = losses + self.curr_kl_coeffs_per_module[module_id] * kl

        columns = {
            POLICY_LOSS_KEY: -surrogate.detach(),
            VF_LOSS_KEY: clipped_errors.detach(),
            LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: value_errors.detach(),
            ENTROPY_KEY: entropy.detach(),
            LEARNER_RESULTS_KL_KEY: kl.detach(),
        }
        targets, predictions, mask = batch[Postprocessing.VALUE_TARGETS], values.detach(), batch[Columns.LOSS_MASK]

        def report() -> dict[str, Any]:
            explained = explained_variance(targets, predictions)
            means = {name: column[mask].mean() for name, column in columns.items()}
            return {**means, LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained}

        self.reports[module_id] = report
        return losses
