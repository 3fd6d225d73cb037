"""The adaptive KL coefficient of PPO and APPO: one for all learners, and part of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import distributed

from rllib_agg.aggregation.learner import STATE, AggLearnerMixin


class AdaptiveKLMixin(AggLearnerMixin):
    """For learners with ``curr_kl_coeffs_per_module``, which RLlib neither shares nor saves."""

    curr_kl_coeffs_per_module: Any

    def mean_over_learners(self, value: Any) -> float:
        """Average a number that every learner has from other samples.

        Left alone, the learners' coefficients, and then their losses, would drift apart.

        :param value: Scalar; all learners must call this at the same point.
        """
        if self.config.num_learners < 2:
            return float(value)
        shared = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach().clone()
        distributed.all_reduce(shared)
        mean: float = shared.item() / self.config.num_learners
        return mean

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
