"""PPO's loss per sample, and its advantages per agent."""

from __future__ import annotations

import logging
import math
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
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.rllib.utils.torch_utils import explained_variance
from ray.util import log_once
from torch import Tensor, distributed

from rl_agg.closed_form.modules import NoClosedFormError
from rllib_agg.aggregation.adaptive_kl import AdaptiveKLMixin
from rllib_agg.aggregation.advantages import RawAdvantageEstimation, finish_advantages
from rllib_agg.aggregation.agents import AGENT
from rllib_agg.aggregation.masking import loss_mask
from rllib_agg.ppo.closed_form import ClosedFormPPO, Coefficients, SampleTerms
from rllib_agg.ppo.policy_sharing import SharingLearnerMixin

logger = logging.getLogger(__name__)

REPLACED = ("losses_per_sample", "compute_losses", "compute_loss_for_module", "compute_gradients")
"""What RLlib's update calls, and the closed form stands for."""


class AggPPOTorchLearner(SharingLearnerMixin, AdaptiveKLMixin, PPOTorchLearner):
    """PPO's learner with the agents' gradients weighted.

    Source: Schulman et al. (2017), equation 9, as RLlib has it; Holen et al. (2023), section 3.
    """

    def build(self) -> None:
        """Replace RLlib's advantage estimation by the one that keeps raw advantages."""
        super().build()
        self.forms: dict[str, ClosedFormPPO] = {}
        """Closed forms of the modules that were updated by one."""
        self.why_no_closed_form: str | None = None
        """Why the last update took torch's graph; ``None`` if it did not."""
        self._forms_fit: bool | None = None  # in this update
        pipeline = self.connector_pipeline
        pipeline.remove(GeneralAdvantageEstimation)
        pipeline.append(RawAdvantageEstimation(gamma=self.config.gamma, lambda_=self.config.lambda_))

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Look at the modules again."""
        self._forms_fit = None
        super().observe_batch(batch)

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

        terms = SampleTerms(surrogate, value_errors, clipped_errors, entropy, kl, values)
        self._report(module_id, batch, SampleTerms(*(term.detach() for term in terms)))
        return losses

    def _report(self, module_id: str, batch: dict[str, Any], terms: SampleTerms) -> None:
        """Let what RLlib logs of a minibatch be computed when the update is over."""
        columns = {
            POLICY_LOSS_KEY: -terms.surrogate,
            VF_LOSS_KEY: terms.clipped_errors,
            LEARNER_RESULTS_VF_LOSS_UNCLIPPED_KEY: terms.value_errors,
            ENTROPY_KEY: terms.entropy,
            LEARNER_RESULTS_KL_KEY: terms.divergence,
        }
        targets, mask = batch[Postprocessing.VALUE_TARGETS], loss_mask(batch)

        def report() -> dict[str, Any]:
            explained = explained_variance(targets, terms.values)
            means = {name: column[mask].mean() for name, column in columns.items()}
            return {**means, LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained}

        self.reports[module_id] = report

    # Without a graph ------------------------------------------------------------------------------------------------------

    def gradients_without_graph(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[Any, Tensor | None]] | None:
        """The modules' losses and gradients in closed form, if all have one and all gradients are finite."""
        if self._forms_fit is None:
            self._forms_fit = self._find_forms(batch)
        if not self._forms_fit:
            return None
        self._gradients = {}
        with torch.no_grad():
            losses = {module_id: self._differentiate_without_graph(module_id, data) for module_id, data in batch.items()}
            vectors = [self._gradients.get(module_id, self.forms[module_id].flat.gradients) for module_id in batch]
            if not all(bool(vector.norm().isfinite()) for vector in vectors):
                for module_id in batch:
                    self.aggregator(module_id).stats.remove_last()
                return None
            for parameter in self.parameters_by_ref.values():
                parameter.grad = None  # an optimiser steps whatever has one
            gradients: dict[Any, Tensor | None] = {
                self.get_param_ref(parameter): self.forms[module_id].flat.gradient(parameter)
                for module_id in batch
                for parameter in self.forms[module_id].flat.parameters
            }
            return losses, self._merged(gradients, set(), losses)

    def _find_forms(self, batch: dict[str, Any]) -> bool:
        """Whether there are closed forms of all modules of a minibatch, as they are now."""
        try:
            self._check_learner()
            for module_id, data in batch.items():
                self._find_form(module_id, data)
            trained = [id(parameter) for form in self.forms.values() for parameter in form.flat.parameters]
            if len(set(trained)) < len(trained):
                raise NoClosedFormError("modules share parameters")
        except NoClosedFormError as error:
            self.why_no_closed_form = str(error)
            if log_once(f"agg_no_closed_form_{error}"):
                logger.info("closed form not used: %s", error)
            return False
        self.why_no_closed_form = None
        return True

    def _check_learner(self) -> None:
        """Check that nothing takes part in an update but what these classes say."""
        for name in REPLACED:
            # By name, for Ray wraps the methods of remote learners
            if getattr(type(self), name).__qualname__ != getattr(AggPPOTorchLearner, name).__qualname__ or name in vars(self):
                raise NoClosedFormError(f"{getattr(self, name).__qualname__}() is not RLlib's or ours")
        if type(self.module) is not MultiRLModule:
            raise NoClosedFormError(f"module {type(self.module).__name__}")
        if self.has_grad_scaler or self.compiles:
            raise NoClosedFormError("mixed precision" if self.has_grad_scaler else "an update that torch compiles")
        for module_id in self.forms.keys() - set(self.module.keys()):
            del self.forms[module_id]

    def _find_form(self, module_id: str, data: dict[str, Any]) -> None:
        """Find a module's closed form, as the module is now."""
        if not self.is_aggregated(module_id):
            raise NoClosedFormError("a module with a loss of its own")
        config, module = self.config.get_config_for_module(module_id), self.module[module_id].unwrapped()
        if not config.closed_form or not config.use_critic:
            raise NoClosedFormError("use_critic=False" if config.closed_form else "closed_form=False")
        if self.aggregator(module_id).client is not None:
            raise NoClosedFormError("learners with parameters of their own")
        observations = data[Columns.OBS]
        if not isinstance(observations, Tensor) or observations.ndim != 2 or Columns.STATE_IN in data:
            raise NoClosedFormError("observations are not vectors, or the module has states")
        known = self.forms.get(module_id)
        if known is None or not known.fits(module):
            known = self.forms[module_id] = ClosedFormPPO(module)
        known.flat.bind()

    def _differentiate_without_graph(self, module_id: str, data: dict[str, Any]) -> Tensor:
        """One module's loss; its gradient is in memory, or its agents' among the agents' gradients."""
        config, form, own = self.config.get_config_for_module(module_id), self.forms[module_id], self.aggregator(module_id)
        coefficients = Coefficients(
            clip=config.clip_param,
            value=config.vf_loss_coeff,
            value_clip=math.inf if config.vf_clip_param is None else config.vf_clip_param,
            entropy=float(self.entropy_coeff_schedulers_per_module[module_id].get_current_value()),
            divergence=float(self.curr_kl_coeffs_per_module[module_id]) if config.use_kl_loss else None,
        )
        losses, terms = form.evaluate(data, coefficients)
        self._report(module_id, data, terms)
        agents, valid = data[AGENT], loss_mask(data)
        factors = own.weigh(losses, agents, valid)
        if factors is None:
            n = own.stats.last.num_samples
            sums = form.by_agent(agents.where(valid, own.num_agents), own.num_agents)
            if own.num_sharing > 1:
                distributed.all_reduce(sums)
            self._gradients[module_id] = sums / n.clamp(min=1.0).to(sums.dtype)[:, None]
            return own.mean_loss
        per_sample = factors[agents].where(valid, 0.0)
        form.differentiate(per_sample)
        if own.num_sharing > 1:  # as DDP does
            distributed.all_reduce(form.flat.gradients)
            form.flat.gradients /= own.num_sharing
        return (per_sample * losses).sum()
