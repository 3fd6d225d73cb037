r"""The learner side of aggregation, the same on every learner. A: agents, P: parameters, L: learners.

A rule's gradient is that of one weighted loss, so that one backward pass does:

.. math:: g = \sum_a w_a \nabla L_a, \qquad w = \mathrm{rule}(\text{returns, losses, sample counts})

Where someone must see each agent's own gradient, the matrix of them goes through a parameter server; in a scheme of local
models each learner steps with its own gradient.

Source: Holen et al. (2023), section 3; the reductions are in :mod:`rllib_agg.aggregation.weighted_loss` and
:mod:`rllib_agg.aggregation.per_agent_gradients`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from ray.rllib.policy.sample_batch import MultiAgentBatch
from torch import Tensor, distributed

from rl_agg import Signals
from rllib_agg.aggregation._compat import average_gradients, own_arrays
from rllib_agg.aggregation.agent_gradients import AgentGradients
from rllib_agg.aggregation.agents import AGENT, RETURN
from rllib_agg.aggregation.finite_step import SKIPPED_UPDATES
from rllib_agg.aggregation.masking import exclude_corrupt_agents, exclude_rows, loss_mask
from rllib_agg.aggregation.per_agent_gradients import trained_parameters
from rllib_agg.aggregation.update_stats import UpdateRecord, log_counts, log_weights
from rllib_agg.aggregation.weighted_loss import sum_by_agent, weighted_loss

STATE = "aggregation"


class AggLearnerMixin(AgentGradients):
    """Goes in front of a TorchLearner whose loss is a mean over samples; the subclass says what is averaged."""

    def finish_batch(self, config: Any, data: dict[str, Any], *, excluded: bool) -> None:
        """Called with each module's columns once it is known who takes part; may change them in place.

        :param config: The module's algorithm config.
        :param data: Its columns.
        :param excluded: Whether an agent was taken out.
        """

    # Before the first minibatch -------------------------------------------------------------------------------------------

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Exclude agents with corrupt data and take the returns down, over all learners."""
        for module_id, data in batch.policy_batches.items():
            average_gradients(self.module[module_id], self.aggregation_of(module_id).one_backward)
            self.records[module_id] = UpdateRecord(self._observe_module(module_id, data))

    def mixes(self, module_id: str) -> bool:
        """Where agents are told apart; a mean over samples, be it of all or of a learner's own, is RLlib's."""
        own = self.aggregation_of(module_id)
        return own.scheme is None and (own.weighting is None or own.weighting.rule != "samples")

    def _observe_module(self, module_id: str, data: dict[str, Any]) -> Tensor:
        config = self.config.get_config_for_module(module_id)
        exclude_corrupt_agents(data)
        agents, valid = data[AGENT].reshape(-1), loss_mask(data).reshape(-1)
        # APPO's buffer replays batches whose returns were taken down before, each learner's another one: to sit out the sums
        # below would leave the other learners waiting.
        returns = data.pop(RETURN, valid.new_full(valid.shape, torch.nan, dtype=torch.float32)).reshape(-1)
        ended = valid & ~returns.isnan()
        columns = torch.stack([valid.double(), (~valid).double(), returns.where(ended, 0.0).double(), ended.double()])
        sums = sum_by_agent(columns, agents, config.num_agents, num_learners=1)
        # An agent is excluded here if it has samples and none of them is valid; anywhere, if it is excluded anywhere.
        shared = torch.stack([(sums[0] == 0) & (sums[1] > 0), sums[2], sums[3]])
        if self.config.num_learners > 1:
            distributed.all_reduce(shared)
        excluded = shared[0] > 0
        if bool(excluded.any()):
            exclude_rows(data, excluded[data[AGENT]])
        known = self.returns.get(module_id)
        unknown = torch.full_like(shared[1], torch.nan)
        # A restored run may have had fewer agents, or more
        known = unknown if known is None else torch.cat([known, unknown])[: len(unknown)]
        mean = (shared[1] / shared[2]).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        self.returns[module_id] = known.where(shared[2] == 0, mean)
        self.finish_batch(config, data, excluded=bool(excluded.any()))
        return excluded

    # In each minibatch ----------------------------------------------------------------------------------------------------

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Weigh the agents and reduce, or leave it to the parameter server."""
        losses = self.losses_per_sample(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out).reshape(-1)
        agents, valid = batch[AGENT].reshape(-1), loss_mask(batch).reshape(-1)
        detached = losses.detach().where(valid, 0.0)
        total, n = sum_by_agent(
            torch.stack([detached, valid.to(detached.dtype)]),
            agents,
            config.num_agents,
            num_learners=self.learners_per_gradient,
        )
        mean = total / n.clamp(min=1.0)
        own, present = self.aggregation_of(module_id), (n > 0) & ~self.returns[module_id].isinf() & ~mean.isinf()
        if own.server is not None:
            self.leave_to_server(module_id, losses, agents, valid)
            self.records[module_id].add(mean, n, present=present)
            average: Tensor = mean.sum() / (n > 0).sum().clamp(min=1)
            return average.to(losses.dtype)  # only for the record
        weights = self._weigh(module_id, mean, n, present)
        self.records[module_id].add(mean, n, present=present, weights=weights)
        factors = weights / n.clamp(min=1.0) * max(1, self.learners_per_gradient)
        return weighted_loss(losses, agents, valid, factors)

    def _weigh(self, module_id: str, losses: Tensor, num_samples: Tensor, present: Tensor) -> Tensor:
        weighting = self.aggregation_of(module_id).weighting
        if weighting is None:  # a model of its own: the mean over its samples
            return num_samples / num_samples.sum().clamp(min=1.0)
        if weighting.needs <= {"returns"}:  # which do not change within an update
            before = self.records[module_id].weights_of(present)
            if before is not None:
                return before
        told = {"returns": self.returns[module_id], "losses": losses, "num_samples": num_samples}
        return weighting(Signals(**{name: told[name] for name in weighting.needs}, present=present))

    # After the last minibatch ---------------------------------------------------------------------------------------------

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Report what became of the gradients."""
        for module_id, record in self.records.items():
            self.log_report(module_id, self.reports.pop(module_id)())
            key, own = (module_id, "agg"), self.aggregation_of(module_id)
            weights = self.settle_update(module_id, record)
            if weights is not None:
                log_weights(self.metrics, key, weights)
            masked = record.masked() | self.returns[module_id].isinf()
            self.metrics.log_value((*key, "masked_agents"), float(masked.sum()), window=1)
            # Those that all learners share are logged by one, for RLlib adds them up.
            counts_here = self.learners_per_gradient < 2 or distributed.get_rank() == 0
            mixed = record.num_mixed_sign() if "losses" in own.needs else 0
            counts = {"mixed_sign_updates": mixed, SKIPPED_UPDATES: self.num_skipped.pop(module_id, 0)}
            log_counts(self.metrics, key, counts, counts_here=counts_here)
            totals = own.ledger.summary()
            del totals["physical_bytes"]  # samples and all-reduced sums are what moves, and Ray's and torch's to count
            self.metrics.log_dict(totals, key=key, reduce="max", window=1)
        self.records = {}
        super().after_gradient_based_update(timesteps=timesteps)

    def log_report(self, module_id: str, report: dict[str, Any]) -> None:
        """Log the stock metrics of the last minibatch: RLlib logs each minibatch's and keeps the last."""
        self.metrics.log_dict(report, key=module_id, window=1)

    def settle_update(self, module_id: str, record: UpdateRecord) -> Tensor | None:
        """Close the books on an update.

        :return: The weights ``[M, A]`` of its minibatches, if there were any.
        """
        own = self.aggregation_of(module_id)
        size = sum(parameter.numel() for parameter in trained_parameters(self.module[module_id].unwrapped()))
        own.ledger.upload(record.num_sent(), gradients=size, scalars=len(own.needs))
        own.ledger.download(record.num_answered(), parameters=size)
        return record.weights()

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """RLlib's, with what is remembered of the agents in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state = own_arrays(state)
            state[STATE] = {
                "returns": {id_: known.tolist() for id_, known in self.returns.items()},
                "modules": {id_: own.get_state() for id_, own in self._aggregations.items()},
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with what is remembered of the agents."""
        if STATE in state:
            known = state[STATE]["returns"]
            self.returns = {
                id_: torch.tensor(values, dtype=torch.float64, device=self.device) for id_, values in known.items()
            }
            self._aggregations = {}
            for module_id, own in state[STATE]["modules"].items():
                self.aggregation_of(module_id).set_state(own)
        super().set_state(state)
