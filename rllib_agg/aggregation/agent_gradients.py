r"""From losses to the gradient that is stepped with, one for all learners. A: agents, P: parameters.

Of modules that a rule weighs, RLlib's one backward pass yields it. Of the others each agent's own gradient goes through a
parameter server. If the outcome is not finite, it is found anew without the agents that made it so.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from ray.util import log_once
from torch import Tensor, distributed

from rl_agg import Signals
from rl_agg.optimizers import step_scale
from rllib_agg.aggregation.agents import AGENT
from rllib_agg.aggregation.finite_step import FiniteSteps, is_finite
from rllib_agg.aggregation.masking import exclude_rows, loss_mask
from rllib_agg.aggregation.module_aggregation import ModuleAggregation
from rllib_agg.aggregation.per_agent_gradients import split_gradient, sum_gradients_by_agent, trained_parameters
from rllib_agg.aggregation.update_stats import UpdateRecord

logger = logging.getLogger(__name__)


class AgentGradients(FiniteSteps):
    """Differentiates what a subclass makes of the agents' losses, and merges where that is left to it."""

    def build(self) -> None:
        """Start with nothing seen."""
        super().build()
        self.returns: dict[str, Tensor] = {}
        """Each agent's last known return by module, ``[A]``, NaN where none is known."""
        self.records: dict[str, UpdateRecord] = {}
        """What happened in this update, by module."""
        self.reports: dict[str, Callable[[], dict[str, Any]]] = {}
        """The stock metrics of each module's last minibatch, to be made when the update is over."""
        self.learners_per_gradient = self.config.num_learners
        """Learners whose samples make one gradient; 1 where each has its own model."""
        self._aggregations: dict[str, ModuleAggregation] = {}
        self._minibatch: dict[str, dict[str, Any]] = {}
        self._matrices: dict[str, Tensor] = {}
        self._samples: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    @abstractmethod
    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """What the stock loss averages; leaves what makes the stock metrics in ``reports``.

        :param module_id: The module.
        :param config: Its algorithm config.
        :param batch: Its minibatch.
        :param fwd_out: What its ``forward_train`` made of it.
        :return: In the shape of the agent column, ``[B]`` or ``[B, T]``.
        """

    def aggregation_of(self, module_id: str) -> ModuleAggregation:
        """What becomes of a module's gradients."""
        if module_id not in self._aggregations:
            config = self.config.get_config_for_module(module_id)
            self._aggregations[module_id] = ModuleAggregation(config, self.config.num_learners)
        return self._aggregations[module_id]

    def leave_to_server(self, module_id: str, losses: Tensor, agents: Tensor, valid: Tensor) -> None:
        """Have a module's samples differentiated agent by agent.

        :param module_id: The module.
        :param losses: ``[B]``, differentiable.
        :param agents: Whose sample it is, ``[B]``.
        :param valid: Samples that count ``[B]``, bool.
        """
        self._samples[module_id] = losses, agents, valid

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """RLlib's, remembering the minibatch in case an agent must be taken out of it."""
        self._minibatch = batch
        losses: dict[str, Any] = super().compute_losses(fwd_out=fwd_out, batch=batch)
        return losses

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        """RLlib's, and each agent's own; if the outcome is not finite, again without the agents that made it so."""
        gradients = self._differentiate(loss_per_module, **kwargs)
        searches: tuple[Callable[[str], Tensor], ...] = (self._agents_with_corrupt_loss, self._agents_with_corrupt_gradient)
        for search in searches:
            corrupt = self._corrupt_modules(gradients)
            if not corrupt:
                break
            culprits = {module_id: search(module_id) for module_id in sorted(corrupt)}
            if any(bool(agents.any()) for agents in culprits.values()):
                self._exclude(culprits)
                losses = self.compute_losses(fwd_out=self.module.forward_train(self._minibatch), batch=self._minibatch)
                gradients = self._differentiate(losses, **kwargs)
        else:
            corrupt = self._corrupt_modules(gradients)
        corrupt -= self._matrices.keys()
        for module_id in self._matrices:
            parts = self._merge(module_id)
            gradients.update(parts)
            if not is_finite(list(parts.values())):
                corrupt.add(module_id)
        nobody = {module_id for module_id in loss_per_module if self.records[module_id].nobody_left}
        self.unfit_modules = corrupt | nobody
        return gradients

    def _differentiate(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        one_by_one = {id_ for id_ in loss_per_module if self.aggregation_of(id_).server is not None}
        summed = {id_: loss for id_, loss in loss_per_module.items() if id_ not in one_by_one}
        gradients: dict[Any, Tensor | None] = super().compute_gradients(summed, **kwargs)
        self._matrices = {id_: self._matrix(id_) for id_ in sorted(one_by_one) if self._samples[id_][0].requires_grad}
        self._samples = {}
        return gradients

    def _matrix(self, module_id: str) -> Tensor:
        """Gradient of each agent's mean loss ``[A, P]``, over all learners."""
        n = self.records[module_id].last.num_samples
        module = self.module[module_id].unwrapped()
        sums = sum_gradients_by_agent(*self._samples[module_id], module, len(n), num_learners=self.config.num_learners)
        return sums / n.clamp(min=1.0).to(sums.dtype)[:, None]

    def _merge(self, module_id: str) -> dict[Any, Tensor]:
        """Let the parameter server make one gradient of the matrix.

        A rule weighs the agents that have samples in the minibatch. A combiner is told who has none by chance, as opposed to
        whoever was masked, for it counts those among the faulty agents that it bears.

        :return: By RLlib's reference to the parameter; to the bit the same on all learners.
        """
        own, record = self.aggregation_of(module_id), self.records[module_id]
        server = own.server
        assert server is not None
        parameters = trained_parameters(self.module[module_id].unwrapped())
        losses, n = record.last.losses, record.last.num_samples
        present, idle = n > 0, None
        if own.weighting is None:
            present = present | ~record.excluded
            idle = (n == 0) & present
        signals = Signals(returns=self.returns[module_id], losses=losses, num_samples=n, present=present)
        optimizers = [optimizer for id_, optimizer in self.optimizers() if id_ == module_id]
        scale = step_scale(optimizers[0], parameters) if server.is_gated and len(optimizers) == 1 else None
        merged = server.merge(self._matrices[module_id], signals, idle=idle, scale=scale)
        record.settle(merged)
        references = map(self.get_param_ref, parameters)
        gradient = merged.gradient.clone()  # RLlib clips it in place, and it may be what a gate remembers
        return dict(zip(references, split_gradient(gradient, parameters), strict=True))

    # Where a gradient is not finite ---------------------------------------------------------------------------------------

    def _corrupt_modules(self, gradients: dict[Any, Tensor | None]) -> set[str]:
        matrices = {id_ for id_, matrix in self._matrices.items() if not bool(matrix.norm(dim=1).isfinite().all())}
        return self.modules_with_corrupt_gradient(gradients) | matrices

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
        parameters = trained_parameters(module)
        corrupt = torch.zeros(config.num_agents, dtype=torch.float64, device=self.device)
        for agent in data[AGENT][loss_mask(data)].unique():
            own = dict(data)
            exclude_rows(own, data[AGENT] != agent)
            losses = self.losses_per_sample(module_id=module_id, config=config, batch=own, fwd_out=module.forward_train(own))
            parts = torch.autograd.grad(losses[loss_mask(own)].mean(), parameters, allow_unused=True)
            corrupt[agent] = not is_finite([part for part in parts if part is not None])
        if self.learners_per_gradient > 1:
            distributed.all_reduce(corrupt)
        return corrupt > 0
