"""PPO's loss per sample, and its advantages per agent."""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)

REPLACED = ("compute_losses", "compute_loss_for_module", "compute_gradients")
"""What RLlib's update calls, and the closed form stands for."""


class AggPPOTorchLearner(AdaptiveKLMixin, PPOTorchLearner):
    """PPO's learner with the agents' gradients weighted.

    Source: Schulman et al. (2017), equation 9, as RLlib has it; Holen et al. (2023), section 3.
    """

    def build(self) -> None:
        """Replace RLlib's advantage estimation by the one that keeps raw advantages."""
        super().build()
        self.forms: dict[str, ClosedFormPPO] = {}
        """Closed forms of the modules that were updated by one."""
        self._checked: set[str] = set()  # modules whose form is known to fit in this update
        pipeline = self.connector_pipeline
        pipeline.remove(GeneralAdvantageEstimation)
        pipeline.append(RawAdvantageEstimation(gamma=self.config.gamma, lambda_=self.config.lambda_))

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Look at the modules again."""
        self._checked.clear()
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
        targets, mask = batch[Postprocessing.VALUE_TARGETS], batch[Columns.LOSS_MASK]

        def report() -> dict[str, Any]:
            explained = explained_variance(targets, terms.values)
            means = {name: column[mask].mean() for name, column in columns.items()}
            return {**means, LEARNER_RESULTS_VF_EXPLAINED_VAR_KEY: explained}

        self.reports[module_id] = report

    # Without a graph ------------------------------------------------------------------------------------------------------

    def gradients_without_graph(self, batch: dict[str, Any]) -> tuple[dict[str, Any], dict[Any, Tensor | None]] | None:
        """The modules' losses and gradients in closed form, if all have one and all gradients are finite."""
        try:
            forms = {module_id: self._closed_form(module_id, data) for module_id, data in batch.items()}
        except NoClosedFormError as error:
            if log_once(f"agg_no_closed_form_{error}"):
                logger.info("closed form not used: %s", error)
            return None
        with torch.no_grad():
            losses = {module_id: self._differentiate_without_graph(module_id, batch[module_id], forms) for module_id in forms}
            vectors = {id_: self._gradients.get(id_, form.flat.gradients) for id_, form in forms.items()}
            if not all(bool(vector.sum().isfinite()) for vector in vectors.values()):
                for module_id in forms:
                    self.aggregator(module_id).stats.remove_last()
                return None
            gradients: dict[Any, Tensor | None] = {
                self.get_param_ref(parameter): form.flat.gradient(parameter)
                for module_id, form in forms.items()
                if module_id not in self._gradients
                for parameter in form.flat.parameters
            }
            return losses, self._merged(gradients, set(), losses)

    def _closed_form(self, module_id: str, data: dict[str, Any]) -> ClosedFormPPO:
        """A module's closed form, as the module is now."""
        if not self.config.get_config_for_module(module_id).closed_form:
            raise NoClosedFormError("closed_form=False")
        for name in ("losses_per_sample", *REPLACED):
            if getattr(type(self), name) is not getattr(AggPPOTorchLearner, name):
                raise NoClosedFormError(f"{type(self).__name__} has a {name}() of its own")
        if self.has_grad_scaler or self.compiles or not self.config.get_config_for_module(module_id).use_critic:
            raise NoClosedFormError("mixed precision, a compiled update or use_critic=False")
        if self.aggregator(module_id).client is not None:
            raise NoClosedFormError("learners with parameters of their own")
        observations = data[Columns.OBS]
        if not isinstance(observations, Tensor) or observations.ndim != 2 or Columns.STATE_IN in data:
            raise NoClosedFormError("observations that are no vectors, or states")
        known = self.forms.get(module_id)
        if module_id not in self._checked:
            if known is None or not known.fits():
                known = self.forms[module_id] = ClosedFormPPO(self.module[module_id].unwrapped())
            known.flat.bind()
            self._checked.add(module_id)
        assert known is not None
        return known

    def _differentiate_without_graph(self, module_id: str, data: dict[str, Any], forms: dict[str, ClosedFormPPO]) -> Tensor:
        """One module's loss; its gradient is in memory, or its agents' among the agents' gradients."""
        config, form, own = self.config.get_config_for_module(module_id), forms[module_id], self.aggregator(module_id)
        coefficients = Coefficients(
            clip=config.clip_param,
            value=config.vf_loss_coeff,
            value_clip=config.vf_clip_param,
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
        self._gradients.pop(module_id, None)
        per_sample = factors[agents].where(valid, 0.0)
        form.differentiate(per_sample)
        if own.num_sharing > 1:  # as DDP does
            distributed.all_reduce(form.flat.gradients)
            form.flat.gradients /= own.num_sharing
        return (per_sample * losses).sum()
