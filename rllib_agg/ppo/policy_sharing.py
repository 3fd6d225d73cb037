r"""Policies of a multi-agent environment that merge their parameters. Axes: A policies, K tensors of each.

Every policy learns from its own samples. Every ``sharing_interval`` updates (rollouts with all their epochs) the policies send
parameters to be merged, by the code that merges QMIX's networks:

.. math:: \theta_i \leftarrow \sum_j w_j \theta_j, \quad \text{in RS-PPS } w_j = R_j / \sum_k R_k

with :math:`R_j` the mean of the last known returns that policy j's agents had in each copy of the environment. All learners
hold the same parameters, returns and losses, and merge them by themselves to the same bits.

Source: Zhang et al. (2024), section 4; independent agents: de Witt et al. (2020).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from ray.rllib.core import ALL_MODULES
from torch import Tensor, nn

from rl_agg import Exchange, Signals
from rl_agg.diagnostics import weight_summary
from rl_agg.optimizers import forget_moments, moments_of
from rl_agg.payloads import Parameters
from rllib_agg.aggregation.learner import STATE, AggLearnerMixin
from rllib_agg.aggregation.parameter_sharing import SharedTensors, SharingGroup
from rllib_agg.ppo.sharing_settings import policies_of

SHARING = "sharing"
"""Where what a learner remembers of aggregation holds what policies have exchanged."""


class SharingLearnerMixin(AggLearnerMixin):
    """A learner whose modules merge their parameters."""

    def build(self) -> None:
        """Let all policies that share begin alike."""
        super().build()
        self.sharing: PolicySharing | None = None
        """What merges the policies, if they share."""
        if self.config.sharing is not None:
            tensors = self.config.shared_tensors(self.module)
            if self.config.same_init and not _is_loaded(self.config.rl_module_spec):
                _equalise(policies_of(self.module))
            self.sharing = PolicySharing(self, tensors)

    def after_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Merge if it is time, and log what was sent."""
        updated = list(self._aggregated)
        super().after_gradient_based_update(timesteps=timesteps)
        if self.sharing is not None:
            summary = self.sharing.step(updated)
            self.metrics.log_dict(summary, key=(ALL_MODULES, "agg"), window=1)
            self.metrics.log_dict(self.sharing.totals, key=(ALL_MODULES, "agg"), reduce="max", window=1)

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The learner's, with what policies have exchanged."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if STATE in state and self.sharing is not None:
            state[STATE][SHARING] = self.sharing.state_dict()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """The learner's, with what policies have exchanged; they start afresh from a state in which they had not."""
        super().set_state(state)
        if STATE in state and self.sharing is not None:
            self.sharing.load_state_dict(state[STATE].get(SHARING))


def _is_loaded(spec: Any) -> bool:
    specs = [spec, *(getattr(spec, "rl_module_specs", None) or {}).values()]
    return any(getattr(own, "load_state_path", None) is not None for own in specs)


@torch.no_grad()
def _equalise(policies: Mapping[str, nn.Module]) -> None:
    """Give all policies what the first has under the same name, in the same shape."""
    first, *others = (policy.state_dict() for policy in policies.values())
    for other in others:
        for name in first.keys() & other.keys():
            if first[name].shape == other[name].shape:
                other[name].copy_(first[name])


class PolicySharing:
    """Merges a learner's policies, and counts what they send.

    :param learner: Once it is built.
    :param tensors: What its policies merge, by their names.
    """

    def __init__(self, learner: Any, tensors: dict[str, SharedTensors]) -> None:
        self._learner, self._tensors = learner, tensors
        self._begin()

    def _begin(self) -> None:
        scheme = self._learner.config.sharing
        self._payload: Parameters = scheme.payload
        self._group = SharingGroup(Exchange(scheme, len(self._tensors), seed=self._learner.config.seed), self._parameters)
        # Since the last merge: samples of the rollouts; sum of the losses of all minibatches' samples; how many those were
        self._trained = {module_id: torch.zeros(3, dtype=torch.float64) for module_id in self._tensors}

    @property
    def _parameters(self) -> list[list[Tensor]]:
        """``[A][K]``."""
        return [list(own.parameters.values()) for own in self._tensors.values()]

    @property
    def totals(self) -> dict[str, int]:
        """Merges, and what was sent and received in them, since the start."""
        exchange = self._group.exchange
        totals = {"merges": exchange.num_exchanges, **exchange.ledger.summary()}
        del totals["physical_bytes"]  # policies live in one process
        return totals

    def step(self, updated: Sequence[str]) -> dict[str, float]:
        """Count an update, and merge if it is time.

        :param updated: Policies that had samples in it.
        :return: What is logged of a merge's weights.
        :raises ValueError: if policies were added or removed since the start.
        """
        learner = self._learner
        if policies_of(learner.module).keys() != self._tensors.keys():
            raise ValueError(
                f"parameter_sharing merges the policies that the algorithm was built with, {', '.join(self._tensors)}, but "
                f"there are {', '.join(policies_of(learner.module))} now; build it anew to add or remove policies"
            )
        for module_id in set(updated) & self._trained.keys():
            own = learner.aggregator(module_id)
            counts = [own.num_samples, *map(float, own.stats.loss_and_samples())]
            self._trained[module_id] += torch.tensor(counts, dtype=torch.float64)
        summary = self._merge() if self._group.exchange.due() else {}
        self._group.exchange.end_update()
        return {**summary, **self._group.exchange.followed}

    def _merge(self) -> dict[str, float]:
        signals = self._signals()
        assert signals.num_samples is not None
        merged = self._group.merge(self._parameters, signals, along=self._along(), idle=signals.num_samples == 0)
        for own in self._trained.values():
            own.zero_()
        if merged is None:
            return {}
        if self._payload.moments == "reset":
            for module_id, tensors in self._tensors.items():
                forget_moments(self._optimizers(module_id), list(tensors.parameters.values()))
        return {} if merged.weights is None else weight_summary(merged.weights[None], merged.present[None])

    def _signals(self) -> Signals:
        """What policies report, each ``[A]``."""
        returns = [self._learner.aggregator(module_id).mean_return for module_id in self._tensors]
        known = torch.stack(list(self._trained.values())).to(self._group.reference.device)
        num_samples, losses, counts = known.unbind(1)
        return Signals(returns=known.new_tensor(returns), losses=losses / counts, num_samples=num_samples)

    def _along(self) -> list[list[Tensor]]:
        """What is merged uncompressed: buffers and, as set, moments."""
        along = {module_id: list(own.buffers.values()) for module_id, own in self._tensors.items()}
        if self._payload.moments == "merge":
            for module_id, own in self._tensors.items():
                along[module_id] += moments_of(self._optimizers(module_id), list(own.parameters.values()))
        return list(along.values())

    def _optimizers(self, module_id: str) -> list[torch.optim.Optimizer]:
        return [optimizer for id_, optimizer in self._learner.optimizers() if id_ == module_id]

    def state_dict(self) -> dict[str, Any]:
        """What policies have exchanged, and what they have done since; all learners have the same."""
        return {**self._group.state_dict(), "trained": {name: own.tolist() for name, own in self._trained.items()}}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Restore :meth:`state_dict`, once the modules are restored; other policies, or ``None``, start afresh."""
        self._begin()
        if state is not None and state["trained"].keys() == self._trained.keys():
            self._group.load_state_dict(state)
            self._trained = {name: torch.tensor(own, dtype=torch.float64) for name, own in state["trained"].items()}
