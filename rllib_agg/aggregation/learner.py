"""A learner whose modules are aggregated, each by its :class:`~rllib_agg.aggregation.aggregator.ModuleAggregator`.

Every decision is the same on all learners. If a gradient is not finite, it is computed again without the agents that made it
so.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from ray.rllib.core import COMPONENT_OPTIMIZER, COMPONENT_RL_MODULE
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from ray.rllib.policy.sample_batch import MultiAgentBatch
from ray.util import log_once
from torch import Tensor, distributed

from rl_agg.inheritance import blocking
from rl_agg.payloads.base import VECTORS
from rl_agg.per_agent_gradients import trained_parameters
from rllib_agg.aggregation._compat import average_gradients, own_arrays
from rllib_agg.aggregation.agents import AGENT, TagUntagged, warn_of_untagged
from rllib_agg.aggregation.aggregator import ModuleAggregator
from rllib_agg.aggregation.finite_step import SKIPPED_UPDATES, FiniteSteps, is_finite
from rllib_agg.aggregation.local_client import LocalClient
from rllib_agg.aggregation.masking import exclude_rows, loss_mask

logger = logging.getLogger(__name__)

STATE = "aggregation"
"""Where a learner's state holds what aggregation remembers."""

CLIENTS = "clients"
"""Where a full state of a learner group holds what each of its learners has for itself, by rank."""


HOOKED = (
    "build",
    "compute_losses",
    "compute_loss_for_module",
    "compute_gradients",
    "apply_gradients",
    "after_gradient_based_update",
)
"""Methods in which the aggregation acts, and which RLlib's users override."""


def check_learner(kind: type) -> None:
    """Check that a learner has a loss per sample, and that none of its methods keeps the mixin's from being called.

    :raises ValueError: naming how to write it instead.
    """
    if not hasattr(kind, "losses_per_sample"):
        raise ValueError(
            f"aggregation needs a learner with a loss per sample; {kind.__name__} reduces its loss to one number. Combine it "
            f"with a learner of rllib_agg, as class My{kind.__name__}({kind.__name__}, AggPPOTorchLearner), or derive it from "
            "AggLearnerMixin and RLlib's, with a losses_per_sample() of your own"
        )
    for own, name in blocking(kind, AggLearnerMixin, HOOKED) if issubclass(kind, AggLearnerMixin) else ():
        remedy = "override losses_per_sample() instead, or call it" if "loss" in name else "call it"
        if own.__module__.startswith("ray."):
            remedy = f"name AggLearnerMixin, or the learner of rllib_agg, before {own.__name__}"
        raise ValueError(
            f"{own.__name__}.{name}() does not call super().{name}(), so that nothing would be aggregated; {remedy}"
        )


class AggLearnerMixin(FiniteSteps):
    """Goes in front of a TorchLearner whose loss is a mean over samples; the subclass says what is averaged."""

    def build(self) -> None:
        """Start with nothing seen."""
        super().build()
        if self.connector_pipeline is not None:
            self.connector_pipeline.prepend(TagUntagged())
        self.reports: dict[str, Callable[[], dict[str, Any]]] = {}
        """The stock metrics of each module's last minibatch, to be computed when the update is over."""
        self.reported: dict[str, Tensor] = {}
        """What each module's samples count as losses in the agents' signals, where that is not what is differentiated."""
        self.aggregators: dict[str, ModuleAggregator] = {}
        """What aggregates each module that has been trained."""
        self._aggregated: list[str] = []  # modules of the current update, in the same order on all learners
        self._minibatch: dict[str, dict[str, Any]] = {}
        self._reduced: set[str] = set()  # modules whose losses in it were reduced by agent
        self._gradients: dict[str, Tensor] = {}  # of agents [A, P], by module
        self._sits_out = False
        self.restore_error: str | None = None
        """Why the last attempt to restore failed."""

    @abstractmethod
    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """What the stock loss averages; puts what computes the stock metrics into ``reports``.

        Where agents shall be weighed by another loss, such as a critic's alone, it puts that into ``reported``, detached.

        :param module_id: The module.
        :param config: Its algorithm config.
        :param batch: Its minibatch.
        :param fwd_out: What its ``forward_train`` made of it.
        :return: In the shape of the agent column, ``[B]`` or ``[B, T]``.
        """

    def finish_batch(self, config: Any, data: dict[str, Any], *, excluded: bool, num_learners: int) -> None:
        """Called with each module's columns, which it may change, once it is known whether an agent is excluded.

        :param num_learners: Learners whose samples make one gradient.
        """

    def aggregator(self, module_id: str) -> ModuleAggregator:
        """What aggregates a module; ``ValueError`` if it needs gradients of that module alone, which shares parameters."""
        if module_id not in self.aggregators:
            own = ModuleAggregator(
                self.config.get_config_for_module(module_id),
                self.module[module_id].unwrapped(),
                [optimizer for id_, optimizer in self.optimizers() if id_ == module_id],
                num_learners=self.config.num_learners,
                groups=self.parameter_groups(module_id),
            )
            self.aggregators[module_id] = own
            self._check_not_shared(module_id)
        return self.aggregators[module_id]

    def _check_not_shared(self, module_id: str) -> None:
        """Raise ``ValueError`` if a module shares parameters, where the gradients of both modules would have to be added."""
        own = set(trained_parameters(self.module[module_id].unwrapped()))
        for other, optimizer in self.optimizers():
            both = (module_id, other)
            separate = next((name for name in both if name in self.aggregators and self.aggregators[name].is_separate), None)
            if other == module_id or separate is None:
                continue
            if not own.isdisjoint(item for group in optimizer.param_groups for item in group["params"]):
                raise ValueError(
                    f"{self.config.get_config_for_module(separate).why_separate} in one module, but {module_id!r} shares "
                    f"parameters with {other!r}; choose a rule that weighs agents, such as aggregation='mean', and leave the "
                    "others out, or give each module parameters of its own"
                )

    def remove_module(self, module_id: str, **kwargs: Any) -> Any:
        """RLlib's, with what was known of the module: another may be added under the same id."""
        self.aggregators.pop(module_id, None)
        self.num_skipped.pop(module_id, None)
        return super().remove_module(module_id, **kwargs)

    def parameter_groups(self, module_id: str) -> list[Tensor]:
        """Which of a module's trained parameters' numbers are exchanged together ``[P]`` each, bool; none: all of them."""
        return []

    # Before the first minibatch -------------------------------------------------------------------------------------------

    def observe_batch(self, batch: MultiAgentBatch) -> None:
        """Begin an update of each module."""
        self._aggregated = [id_ for id_ in batch.policy_batches if self.is_aggregated(id_)]
        for module_id in self._aggregated:
            data: dict[str, Any] = batch.policy_batches[module_id]
            own = self.aggregator(module_id)
            if AGENT not in data:
                like = next(data[name] for name in (Columns.ACTION_LOGP, Columns.REWARDS) if name in data)
                data[AGENT] = torch.zeros_like(like, dtype=torch.int64)
                warn_of_untagged()
            average_gradients(self.module[module_id], own.averages_gradients)
            config, excluded = self.config.get_config_for_module(module_id), own.begin_update(data)
            self.finish_batch(config, data, excluded=excluded, num_learners=own.num_sharing)

    def is_aggregated(self, module_id: str) -> bool:
        """Whether a module's loss is the learner's, and not one of its own."""
        return not isinstance(self.module[module_id].unwrapped(), SelfSupervisedLossAPI)

    def mixes(self, module_id: str) -> bool:
        """Where agents count by more than their samples."""
        return self.is_aggregated(module_id) and self.aggregator(module_id).mixes_minibatches

    def own_schedule(self, num_epochs: int, num_total_minibatches: int) -> tuple[int, int]:
        """A client goes through its own epochs of its own samples."""
        clients = self._clients
        if not clients:
            return num_epochs, num_total_minibatches
        own_epochs = next(iter(clients.values())).num_epochs  # the same for all modules
        epochs = num_epochs if own_epochs is None else own_epochs
        self._sits_out = epochs == 0
        return (1, 1) if self._sits_out else (epochs, 0)  # RLlib's update takes one minibatch at least

    @property
    def _clients(self) -> dict[str, LocalClient]:
        return {id_: own.client for id_, own in self.aggregators.items() if own.client is not None}

    # In each minibatch ----------------------------------------------------------------------------------------------------

    def compute_losses(self, *, fwd_out: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """RLlib's, keeping the minibatch in case an agent must be taken out of it."""
        self._minibatch = batch
        self._reduced.clear()
        losses: dict[str, Any] = super().compute_losses(fwd_out=fwd_out, batch=batch)
        if missing := batch.keys() & set(self._aggregated) - self._reduced:
            raise ValueError(
                f"{type(self).__name__}.compute_loss_for_module() did not call AggLearnerMixin.compute_loss_for_module() for "
                f"{', '.join(map(repr, sorted(missing)))}, so that nothing would be aggregated; call super(), or override "
                "losses_per_sample() instead"
            )
        return losses

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Reduce the losses by agent."""
        self._reduced.add(module_id)
        losses = self.losses_per_sample(module_id=module_id, config=config, batch=batch, fwd_out=fwd_out)
        reported = self.reported.pop(module_id, losses.detach())
        columns = (losses, batch[AGENT], loss_mask(batch), reported)
        return self.aggregator(module_id).reduce(*(column.reshape(-1) for column in columns))

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        """RLlib's, and what is merged of the agents' own gradients."""
        gradients, corrupt = self._finite_gradients(loss_per_module, **kwargs)
        return self._merged(gradients, corrupt, loss_per_module)

    def _merged(
        self, gradients: dict[Any, Tensor | None], corrupt: set[str], loss_per_module: Collection[str]
    ) -> dict[Any, Tensor | None]:
        """Add what is merged of the agents' own gradients, and decide whose step is held back."""
        corrupt -= self._gradients.keys()
        waiting = set(loss_per_module) if self._sits_out else set()
        for module_id, own_gradients in self._gradients.items():
            merged = self.aggregator(module_id).merge(own_gradients)
            if merged is None:
                waiting.add(module_id)
                continue
            gradients.update((self.get_param_ref(parameter), part) for parameter, part in merged)
            if not is_finite([part for _, part in merged]):
                corrupt.add(module_id)
        unfit = {module_id for module_id in self._aggregated if self.aggregator(module_id).is_unfit}
        self.waiting_modules, self.unfit_modules = waiting, (corrupt | unfit) - waiting
        return gradients

    def apply_gradients(self, gradients_dict: dict[Any, Tensor | None]) -> None:
        """RLlib's, at the learner's parameters where agents hold others; then it broadcasts them."""
        with ExitStack() as stack:
            for module_id in self._aggregated:
                if module_id not in self.waiting_modules:
                    stack.enter_context(self.aggregator(module_id).learning())
            super().apply_gradients(gradients_dict)

    def _finite_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> tuple[dict[Any, Tensor | None], set[str]]:
        """Differentiate; if the outcome is not finite, again without the agents that made it so.

        :return: RLlib's gradients, and the modules where even this was to no avail.
        """
        gradients = self._differentiate(loss_per_module, **kwargs)
        for search in (self._agents_with_corrupt_loss, self._agents_with_corrupt_gradient):
            corrupt = self._corrupt_modules(gradients)
            if not corrupt:
                return gradients, corrupt
            found = {module_id: search(module_id) for module_id in sorted(corrupt.intersection(self._aggregated))}
            if any(bool(agents.any()) for agents in found.values()):
                self._exclude(found)
                losses = self.compute_losses(fwd_out=self.module.forward_train(self._minibatch), batch=self._minibatch)
                gradients = self._differentiate(losses, **kwargs)
        return gradients, self._corrupt_modules(gradients)

    def _differentiate(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        separate = sorted(id_ for id_ in self._aggregated if self.aggregator(id_).is_separate)
        summed = {id_: loss for id_, loss in loss_per_module.items() if id_ not in separate}
        gradients: dict[Any, Tensor | None] = super().compute_gradients(summed, **kwargs)
        taken = {id_: self.aggregator(id_).differentiate(loss_per_module[id_]) for id_ in separate}
        self._gradients = {id_: own for id_, own in taken.items() if own is not None}
        return gradients

    # Where a gradient is not finite ---------------------------------------------------------------------------------------

    def _corrupt_modules(self, gradients: dict[Any, Tensor | None]) -> set[str]:
        separate = {id_ for id_, own in self._gradients.items() if not bool(own.norm(dim=1).isfinite().all())}
        return self.modules_with_corrupt_gradient(gradients) | separate

    def _exclude(self, found: dict[str, Tensor]) -> None:
        for module_id in self._aggregated:
            self.aggregator(module_id).stats.remove_last()
        for module_id, agents in found.items():
            self.aggregator(module_id).stats.excluded |= agents
            data = self._minibatch[module_id]
            exclude_rows(data, agents[data[AGENT]])
            if log_once(f"agg_masked_agent_{module_id}"):
                names = agents.nonzero().flatten().tolist()
                logger.warning("Agents %s of %s had a non-finite loss or gradient and were masked.", names, module_id)

    def _agents_with_corrupt_loss(self, module_id: str) -> Tensor:
        return ~self.aggregator(module_id).stats.last.losses.isfinite()

    def _agents_with_corrupt_gradient(self, module_id: str) -> Tensor:
        """Search agent by agent; slow, and only done for a minibatch whose gradient is already lost.

        :return: bool ``[A]``, over all learners.
        """
        config, own = self.config.get_config_for_module(module_id), self.aggregator(module_id)
        data = self._minibatch[module_id]
        module = self.module[module_id].unwrapped()  # under DDP a partial backward would wait for the other learners
        parameters = trained_parameters(module)
        corrupt = torch.zeros(own.num_agents, dtype=torch.float64, device=self.device)
        for agent in data[AGENT][loss_mask(data)].unique():
            part = dict(data)
            exclude_rows(part, data[AGENT] != agent)
            losses = self.losses_per_sample(module_id=module_id, config=config, batch=part, fwd_out=module.forward_train(part))
            gradients = torch.autograd.grad(losses[loss_mask(part)].mean(), parameters, allow_unused=True)
            corrupt[agent] = not is_finite([gradient for gradient in gradients if gradient is not None])
        if own.num_sharing > 1:
            distributed.all_reduce(corrupt)
        return corrupt > 0

    # After the last minibatch ---------------------------------------------------------------------------------------------

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Close the update, and log it."""
        for module_id in self._aggregated:
            self.log_report(module_id, self.reports.pop(module_id)())
            key, own = (module_id, "agg"), self.aggregator(module_id)
            logged = {**own.end_update(), "masked_agents": float(own.masked.sum())}
            self.metrics.log_dict(logged, key=key, window=1)
            # Counts that all learners share are logged by one, for RLlib adds them up.
            counts_here = own.num_sharing < 2 or distributed.get_rank() == 0
            for name, count in {**own.counts, SKIPPED_UPDATES: self.num_skipped.pop(module_id, 0)}.items():
                value = count if counts_here else 0
                self.metrics.log_value((*key, name), value, reduce="sum")
                self.metrics.log_value((*key, f"{name}_lifetime"), value, reduce="lifetime_sum")
            if own.exchange.scheme.payload.content in VECTORS:  # others have come before
                totals = own.exchange.ledger.summary()
                del totals["physical_bytes"]  # samples and all-reduced sums are what moves, and Ray's and torch's to count
                self.metrics.log_dict(totals, key=key, reduce="max", window=1)
        self._aggregated = []
        super().after_gradient_based_update(timesteps=timesteps)

    def log_report(self, module_id: str, report: dict[str, Any]) -> None:
        """Log the stock metrics of the last minibatch: RLlib logs each minibatch's and keeps the last."""
        self.metrics.log_dict(report, key=module_id, window=1)

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """RLlib's, with the last merge in place of a client's own weights; a full one with what aggregation remembers."""
        with ExitStack() as stack:
            for client in self._clients.values():
                stack.enter_context(client.showing_last_merge())
            state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
            if components is None or self._clients:
                state = own_arrays(state)
        if components is None:
            state[STATE] = {"modules": {id_: own.get_state() for id_, own in self.aggregators.items()}}
        return state

    def get_client_state(self) -> tuple[int, dict[str, Any]]:
        """This learner's rank, and what it has for itself: its weights and its optimiser's moments."""
        own = {module_id: client.get_state() for module_id, client in self._clients.items()}
        moments = super().get_state(COMPONENT_OPTIMIZER)[COMPONENT_OPTIMIZER]
        return distributed.get_rank(), {COMPONENT_OPTIMIZER: moments, "modules": own}

    def attempt_restore(self, restore: Callable[[], None]) -> None:
        """Restore; a learner in a process of its own, which would end, undoes it on an error, which its group raises."""
        if not self.config.num_learners:
            restore()
            return
        before = self.get_state()
        try:
            restore()
        except Exception as error:
            self.set_state(before)
            self.restore_error = f"{type(error).__name__}: {error}"

    def restore_from_path(self, path: Any, **kwargs: Any) -> None:
        """RLlib's, by :meth:`attempt_restore`."""
        self.attempt_restore(partial(super().restore_from_path, path, **kwargs))

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with what aggregation remembers, and what a client had for itself if there are as many as there were."""
        if STATE in state or COMPONENT_RL_MODULE in state:
            for client in self._clients.values():
                client.forget()
        if STATE in state:
            self.aggregators = {}
            for module_id, own in state[STATE]["modules"].items():
                if module_id in self.module:
                    self.aggregator(module_id).set_state(own)
        super().set_state(state)
        saved = state.get(STATE, {}).get(CLIENTS, {})
        if self._clients and len(saved) == self.config.num_learners:
            mine, number = saved[distributed.get_rank()], self.weights_seq_no
            super().set_state({COMPONENT_OPTIMIZER: mine[COMPONENT_OPTIMIZER]})
            self.weights_seq_no = number  # which RLlib begins anew, and env runners would keep older weights
            for module_id, own in mine["modules"].items():
                self._clients[module_id].set_state(own)
