"""A learner of samples that a replay has drawn."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from ray.rllib.algorithms.dqn.torch.dqn_torch_learner import DQNTorchLearner

from rllib_agg.aggregation.learner import STATE, AggLearnerMixin

TARGET_UPDATES = "target_updates"


class ReplayLearnerMixin(AggLearnerMixin, DQNTorchLearner):
    """Goes in front of DQN's learner or one derived from it.

    Optimisers are not fused, so that with ``mean`` every step is RLlib's to the bit.
    """

    fuses_optimizers = False

    def build(self) -> None:
        """Start with nothing to log."""
        super().build()
        self._stock_losses: dict[str, Any] = {}

    def report_by_stock_loss(self, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> None:
        """Let RLlib's loss log its metrics before the step, the errors for a replay's priorities included."""
        stock_loss = super(AggLearnerMixin, self).compute_loss_for_module
        self._stock_losses[module_id] = partial(stock_loss, module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        self.reports[module_id] = dict  # nothing is left to log after the step

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor | None]) -> None:
        """Log, then step: a minibatch that was differentiated again without some agents is logged once."""
        with torch.no_grad():
            for stock_loss in self._stock_losses.values():
                stock_loss()
        self._stock_losses.clear()
        super().apply_gradients(gradients_dict)

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The learner's; a full one with when each module's target network was updated."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if STATE in state:
            state[STATE][TARGET_UPDATES] = dict(self.last_update_ts_by_mid)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """The learner's, and when target networks were updated."""
        super().set_state(state)
        self.last_update_ts_by_mid.update(state.get(STATE, {}).get(TARGET_UPDATES, {}))
