r"""The learner side of aggregation: weights from signals, one backward, the same on every learner.

.. math:: g = \sum_a w_a \nabla L_a, \qquad w = \mathrm{rule}(\text{returns, losses, sample counts})

Source: Holen et al. (2023), section 3; the reduction is in :mod:`rllib_agg.aggregation.reduction`.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.util import log_once
from torch import Tensor, distributed

from rl_agg import Signals, Weighting
from rllib_agg.aggregation.agents import AGENT, RETURN
from rllib_agg.aggregation.exclusion import exclude_corrupt_agents, exclude_rows
from rllib_agg.aggregation.finite import FiniteSteps, is_finite
from rllib_agg.aggregation.record import UpdateRecord
from rllib_agg.aggregation.reduction import sum_by_agent, weighted_loss

logger = logging.getLogger(__name__)

STATE = "aggregation"


class AggLearnerMixin(FiniteSteps):
    """Goes in front of a TorchLearner whose loss is a mean over samples; the subclass says what is averaged."""

    @abstractmethod
    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """What the stock loss averages, and the stock metrics on the way.

        :param module_id: The module.
        :param config: Its algorithm config.
        :param batch: Its minibatch.
        :param fwd_out: What its ``forward_train`` made of it.
        :return: In the shape of the agent column, ``[B]`` or ``[B, T]``.
        """

    def finish_batch(self, config: Any, data: dict[str, Any], *, excluded: bool) -> None:
        """Called with each module's columns once it is known who takes part; may change them in place.

        :param config: The module's algorithm config.
        :param data: Its columns.
        :param excluded: Whether an agent was taken out.
        """

    def build(self) -> None:
        """Start without known returns."""
        super().build()
        self.returns: dict[str, Tensor] = {}
        """Each agent's last known return by module, ``[A]``, NaN where none is known."""
        self.records: dict[str, UpdateRecord] = {}
        self._minibatch: dict[str, dict[str, Any]] = {}
        self._weightings: dict[str, Weighting] = {}

    def _weighting(self, module_id: str) -> Weighting:
        if module_id not in self._weightings:
            self._weightings[module_id] = self.config.get_config_for_module(module_id).weighting()
        return self._weightings[module_id]

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Exclude agents with corrupt data and take the returns down, over all learners."""
        for module_id, data in batch.policy_batches.items():
            self.records[module_id] = UpdateRecord(self._observe_module(module_id, data))

    def _observe_module(self, module_id: str, data: dict[str, Any]) -> Tensor:
        config = self.config.get_config_for_module(module_id)
        exclude_corrupt_agents(data)
        agents, valid = data[AGENT].reshape(-1), _mask(data).reshape(-1)
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
        known = torch.full_like(shared[1], torch.nan) if known is None else known
        mean = (shared[1] / shared[2]).nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.returns[module_id] = known.where(shared[2] == 0, mean)
        self.finish_batch(config, data, excluded=bool(excluded.any()))
        return excluded

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """RLlib's, remembering the minibatch in case an agent must be taken out of it."""
        self._minibatch = batch
        losses: dict[str, Any] = super().compute_losses(fwd_out=fwd_out, batch=batch)
        return losses

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Weigh the agents and reduce."""
        losses = self.losses_per_sample(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out).reshape(-1)
        agents, valid = batch[AGENT].reshape(-1), _mask(batch).reshape(-1)
        detached = losses.detach().where(valid, 0.0)
        total, n = sum_by_agent(
            torch.stack([detached, valid.to(detached.dtype)]),
            agents,
            config.num_agents,
            num_learners=self.config.num_learners,
        )
        mean = total / n.clamp(min=1.0)
        weights = self._weigh(module_id, mean, n)
        self.records[module_id].add(weights, mean, n)
        factors = weights / n.clamp(min=1.0) * max(1, self.config.num_learners)
        return weighted_loss(losses, agents, valid, factors)

    def _weigh(self, module_id: str, losses: Tensor, num_samples: Tensor) -> Tensor:
        weighting, present = self._weighting(module_id), num_samples > 0
        before = self.records[module_id].weights_of(present)
        if before is not None and weighting.needs <= {"returns"}:
            return before  # returns do not change within an update
        signals = Signals(returns=self.returns[module_id], losses=losses, num_samples=num_samples, present=present)
        return weighting(signals)

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        """RLlib's; if the outcome is not finite, again without the agents that made it so."""
        gradients: dict[Any, Tensor | None] = super().compute_gradients(loss_per_module, **kwargs)
        searches: tuple[Callable[[str], Tensor], ...] = (self._agents_with_corrupt_loss, self._agents_with_corrupt_gradient)
        for search in searches:
            corrupt = self.modules_with_corrupt_gradient(gradients)
            if not corrupt:
                break
            culprits = {module_id: search(module_id) for module_id in sorted(corrupt)}
            if any(bool(agents.any()) for agents in culprits.values()):
                self._exclude(culprits)
                losses = self.compute_losses(fwd_out=self.module.forward_train(self._minibatch), batch=self._minibatch)
                gradients = super().compute_gradients(losses, **kwargs)
        else:
            corrupt = self.modules_with_corrupt_gradient(gradients)
        nobody = {module_id for module_id in loss_per_module if self.records[module_id].nobody_left}
        self.unfit_modules = corrupt | nobody
        return gradients

    def _exclude(self, culprits: dict[str, Tensor]) -> None:
        for module_id in self._minibatch:
            self.records[module_id].retract()
        for module_id, agents in culprits.items():
            self.records[module_id].excluded |= agents
            data = self._minibatch[module_id]
            exclude_rows(data, agents[data[AGENT]])
            if log_once(f"agg_masked_agent_{module_id}"):
                names = agents.nonzero().flatten().tolist()
                logger.warning("Agents %s of %s had a non-finite loss or gradient and were masked.", names, module_id)

    def _agents_with_corrupt_loss(self, module_id: str) -> Tensor:
        return self.records[module_id].corrupt_losses()

    def _agents_with_corrupt_gradient(self, module_id: str) -> Tensor:
        """Search agent by agent; slow, and only ever done for a minibatch whose gradient is already lost.

        :return: bool ``[A]``, over all learners.
        """
        config, data = self.config.get_config_for_module(module_id), self._minibatch[module_id]
        module = self.module[module_id].unwrapped()  # under DDP a partial backward would wait for the other learners
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        corrupt = torch.zeros(config.num_agents, dtype=torch.float64, device=self.device)
        for agent in data[AGENT][_mask(data)].unique():
            own = dict(data)
            exclude_rows(own, data[AGENT] != agent)
            losses = self.losses_per_sample(module_id=module_id, config=config, batch=own, fwd_out=module.forward_train(own))
            parts = torch.autograd.grad(losses[_mask(own)].mean(), parameters, allow_unused=True)
            corrupt[agent] = not is_finite([part for part in parts if part is not None])
        if self.config.num_learners > 1:
            distributed.all_reduce(corrupt)
        return corrupt > 0

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Report what the weights were."""
        counts_here = self.config.num_learners < 2 or distributed.get_rank() == 0
        for module_id, record in self.records.items():
            skipped = self.num_skipped.pop(module_id, 0)
            record.report(
                self.metrics,
                (module_id, "agg"),
                returns=self.returns[module_id],
                reads_losses="losses" in self._weighting(module_id).needs,
                skipped=skipped,
                # Each count is the same on all learners, and RLlib adds them up.
                counts_here=counts_here,
            )
        self.records = {}
        super().after_gradient_based_update(timesteps=timesteps)

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """RLlib's, with the agents' last known returns in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state[STATE] = {"returns": {id_: known.tolist() for id_, known in self.returns.items()}}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with the agents' last known returns."""
        if STATE in state:
            # A full state is a restore: it holds even if it is older than what is here, where RLlib would keep the newer
            # weights beside the older optimizer.
            self.weights_seq_no = 0
            known = state[STATE]["returns"]
            self.returns = {
                id_: torch.tensor(values, dtype=torch.float64, device=self.device) for id_, values in known.items()
            }
        super().set_state(state)


def _mask(data: dict[str, Any]) -> Tensor:
    """Samples that count, in the shape of the agent column, bool."""
    mask = data.get(Columns.LOSS_MASK)
    return torch.ones_like(data[AGENT], dtype=torch.bool) if mask is None else mask.bool()
