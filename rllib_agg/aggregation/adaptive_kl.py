"""The adaptive KL coefficient of PPO and APPO: one for all learners, and part of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_KL_KEY
from torch import Tensor, distributed

from rllib_agg.aggregation.learner import STATE, AggLearnerMixin


class AdaptiveKLMixin(AggLearnerMixin):
    """For learners with ``curr_kl_coeffs_per_module``, which RLlib neither shares nor saves."""

    curr_kl_coeffs_per_module: Any

    def log_report(self, module_id: str, report: dict[str, Any]) -> None:
        """Let all learners adapt to one KL divergence; otherwise their coefficients, and then their losses, drift apart."""
        if self.config.num_learners > 1 and self.config.get_config_for_module(module_id).use_kl_loss:
            # What RLlib adapts the coefficient by.
            report = {**report, LEARNER_RESULTS_KL_KEY: self._mean_over_learners(report[LEARNER_RESULTS_KL_KEY])}
        super().log_report(module_id, report)

    def _mean_over_learners(self, value: Tensor) -> float:
        """Average a number that every learner has from other samples; NaN is that of a learner whose agents are all masked."""
        own = value.to(torch.float64)
        shared = torch.stack([own.nan_to_num(nan=0.0), own.isnan().logical_not().double()])
        distributed.all_reduce(shared)
        return float(shared[0] / shared[1])

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The learner's, with the adapted KL coefficients."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if STATE in state:
            coefficients = self.curr_kl_coeffs_per_module
            state[STATE]["kl_coeffs"] = {id_: float(coefficients[id_]) for id_ in list(self.module.keys())}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """The learner's, with the KL coefficients."""
        super().set_state(state)
        for module_id, value in state.get(STATE, {}).get("kl_coeffs", {}).items():
            self.curr_kl_coeffs_per_module[module_id].data.fill_(value)
