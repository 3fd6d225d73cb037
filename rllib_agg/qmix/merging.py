"""Merges of the agents' networks. Axes: n agents, g agents that merge with each other, P numbers that each exchanges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg import Exchange, Ledger, Scheme, Signals
from rl_agg.payloads import Parameters, merge
from rllib_agg.qmix.learner import QMIXLearner


@dataclass
class Group:
    """Agents that merge with each other.

    :param agents: Their numbers ``[g]``.
    :param exchange: Of their parameters.
    :param reference: The parameters that were merged last ``[P]``; at the start, the average.
    """

    agents: NDArray[np.int64]
    exchange: Exchange
    reference: Tensor


class NetworkMerging:
    """Merges the agents' networks and, as set, their targets and optimiser moments.

    Targets are a part of what is exchanged. Moments are sent uncompressed, and averaged over the agents that sent, with the
    same weights.

    :param groups: Which agents merge with each other.
    :param ledger: Counts what all n agents send and receive.
    """

    def __init__(
        self, scheme: Scheme, learner: QMIXLearner, groups: list[NDArray[np.int64]], ledger: Ledger, *, targets: bool
    ) -> None:
        assert isinstance(scheme.payload, Parameters)
        self._payload, self._learner, self._targets = scheme.payload, learner, targets
        self._groups = [
            Group(agents, Exchange(scheme, len(agents), ledger=ledger, agents=agents), self._vectors(agents).mean(0))
            for agents in groups
        ]

    @torch.no_grad()
    def step(self, rewards: NDArray[np.float64], num_samples: int) -> bool:
        """Count a gradient step, and merge if it is due.

        :param rewards: What each agent has earned ``[n]``.
        :param num_samples: Environment steps of each agent.
        :return: Whether agents merged.
        """
        due = [group for group in self._groups if group.exchange.due()]
        for group in due:
            self._merge(group, torch.from_numpy(rewards[group.agents]), num_samples)
        if self._payload.moments == "reset" and sum(len(group.agents) for group in due) == len(rewards):
            for state in self._states():
                if "step" in state:  # Adam's, by which it corrects young moments
                    state["step"].zero_()
        return bool(due)

    def _merge(self, group: Group, rewards: Tensor, num_samples: int) -> None:
        agents, vectors = group.agents, self._vectors(group.agents)
        moments = self._moments() if self._payload.moments != "keep" else []
        signals = Signals(returns=rewards.to(vectors.device), num_samples=torch.full_like(vectors[:, 0], num_samples))
        extra = sum(moment[0].numel() for moment in moments) if self._payload.moments == "merge" else 0
        merged = group.exchange.merge(vectors, signals, reference=group.reference, extra=extra)
        weights = merged.present.to(vectors) if merged.weights is None else merged.weights
        if not bool(weights.any()):
            return
        group.reference = merged.vector
        parameters = self._parameters()
        parts = torch.split(merged.vector, [parameter[0].numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter[agents] = part.view_as(parameter[0])
        sent = weights * merged.sends
        for moment in moments:
            if self._payload.moments == "reset":
                moment[agents] = 0
            elif bool(sent.any()):
                moment[agents] = merge([moment[agents]], sent)[0]

    def _parameters(self) -> list[Tensor]:
        """What is merged ``[n, ...]`` each."""
        team = self._learner.team
        networks = (team.networks, team.target_networks) if self._targets else (team.networks,)
        return [
            named[name]
            for named in (dict(each.named_parameters()) for each in networks)
            for name in self._payload.selected(named)
        ]

    def _vectors(self, agents: NDArray[np.int64]) -> Tensor:
        """The same of some agents ``[g, P]``."""
        return torch.cat([parameter.detach()[agents].flatten(1) for parameter in self._parameters()], dim=1)

    def _states(self) -> list[dict[str, Any]]:
        """What optimisers remember of each parameter that is merged."""
        optimizers = [optimizer for _, optimizer in self._learner.optimizers()]
        return [optimizer.state.get(parameter, {}) for parameter in self._parameters() for optimizer in optimizers]

    def _moments(self) -> list[Tensor]:
        """Tensors of :meth:`_states` ``[n, ...]``; others, such as step counts, belong to all agents."""
        shapes = {parameter.shape for parameter in self._parameters()}
        return [value for state in self._states() for value in state.values() if getattr(value, "shape", None) in shapes]

    def state_dict(self) -> list[dict[str, Any]]:
        """What each group has exchanged, without the ledger, which is the team's."""
        states = [{**group.exchange.state_dict(), "reference": group.reference.cpu().clone()} for group in self._groups]
        return [{name: value for name, value in state.items() if name != "ledger"} for state in states]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Restore :meth:`state_dict`."""
        for group, state in zip(self._groups, states, strict=True):
            group.exchange.load_state_dict(state)
            group.reference = state["reference"].to(group.reference, copy=True)
