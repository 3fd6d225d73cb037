"""A learner whose learners may go their own ways between merges; only where updates are taken by all of them together."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

import numpy as np
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor, distributed

from rl_agg.payloads import FedAvg
from rllib_agg.aggregation._compat import own_arrays
from rllib_agg.aggregation.learner import STATE, AggLearnerMixin
from rllib_agg.aggregation.local_client import LocalClient
from rllib_agg.aggregation.masking import loss_mask
from rllib_agg.aggregation.update_stats import UpdateRecord

CLIENTS = "clients"
"""Where a full state of a learner group holds what each of its learners has for itself, by rank."""


class LocalLearningMixin(AggLearnerMixin):
    """Adds FedAvg and FedProx, each learner a client. Without them it changes nothing."""

    def build(self) -> None:
        """Start with all learners alike."""
        self._clients: dict[str, LocalClient] = {}
        self._idle = False
        super().build()

    @property
    def rank(self) -> int:
        """Which of the learners this is, 0 to L - 1."""
        return distributed.get_rank()

    def _client_of(self, module_id: str, scheme: FedAvg) -> LocalClient:
        if module_id not in self._clients:
            self._clients[module_id] = LocalClient(scheme, self.module[module_id].unwrapped())
        return self._clients[module_id]

    # Learning -------------------------------------------------------------------------------------------------------------

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Count this learner's samples."""
        scheme = self.config.make_scheme()
        self.learners_per_gradient = self.config.num_learners if scheme is None else 1
        super().observe_batch(batch)
        if scheme is None:
            self._clients, self._idle = {}, False
        else:
            for module_id, data in batch.policy_batches.items():
                self._client_of(module_id, scheme).begin_update(float(loss_mask(data).sum()))

    def own_schedule(self, num_epochs: int, num_total_minibatches: int) -> tuple[int, int]:
        """A client goes through its own epochs of its own samples."""
        scheme = self.config.make_scheme()
        if scheme is None:
            return super().own_schedule(num_epochs, num_total_minibatches)
        if scheme.local_epochs is not None:
            num_epochs = scheme.local_epochs[self.rank]
        self._idle = num_epochs == 0
        return (1, 1) if self._idle else (num_epochs, 0)  # RLlib's update takes one minibatch at least

    def compute_loss_for_module(self, *, module_id: str, **kwargs: Any) -> Tensor:
        """With FedProx's term."""
        loss = super().compute_loss_for_module(module_id=module_id, **kwargs)
        client = self._clients.get(module_id)
        term = None if client is None else client.proximal_term()
        return loss if term is None else loss + term

    def apply_gradients(self, gradients_dict: dict[Any, Tensor | None]) -> None:
        """Not for a learner that sits this update out."""
        if not self._idle:
            super().apply_gradients(gradients_dict)

    def settle_update(self, module_id: str, record: UpdateRecord) -> Tensor | None:
        """Merge, if it is time for it, and count what that took."""
        client = self._clients.get(module_id)
        if client is None:
            return super().settle_update(module_id, record)
        masked = record.masked().double()
        distributed.all_reduce(masked)
        record.excluded = masked > 0
        shares = client.shares()
        size = client.merge(shares, [optimizer for id_, optimizer in self.optimizers() if id_ == module_id])
        if size:
            ledger = self.aggregation_of(module_id).ledger
            ledger.upload((shares > 0).cpu().numpy(), parameters=size)
            ledger.download(np.ones(len(shares), dtype=bool), parameters=size)
        self.metrics.log_value((module_id, "agg", "divergence"), client.divergence, window=1)
        return shares[None]

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The learner's, with the weights that were merged last, whatever its own are."""
        with ExitStack() as stack:
            for client in self._clients.values():
                stack.enter_context(client.showing_merged())
            state = super().get_state(components, not_components=not_components, **kwargs)
            return own_arrays(state) if self._clients else state

    def get_client_state(self) -> dict[str, Any]:
        """What this learner has for itself: its weights and its optimiser's moments."""
        own = {module_id: client.get_state() for module_id, client in self._clients.items()}
        return {COMPONENT_OPTIMIZER: super().get_state(COMPONENT_OPTIMIZER)[COMPONENT_OPTIMIZER], "modules": own}

    def set_state(self, state: dict[str, Any]) -> None:
        """The learner's, and what this one had for itself, if there are as many learners as there were."""
        if STATE in state or COMPONENT_RL_MODULE in state:
            self._clients = {}
        super().set_state(state)
        saved = state.get(STATE, {}).get(CLIENTS, {})
        scheme = self.config.make_scheme()
        if scheme is not None and len(saved) == self.config.num_learners:
            mine = saved[self.rank]
            super().set_state({COMPONENT_OPTIMIZER: mine[COMPONENT_OPTIMIZER]})
            for module_id, own in mine["modules"].items():
                self._client_of(module_id, scheme).set_state(own)
