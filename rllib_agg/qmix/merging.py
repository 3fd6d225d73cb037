"""Merges of the agents' networks. Axes: n agents, g agents that merge with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_agg import Exchange, Ledger, Scheme, Signals
from rl_agg.payloads import Parameters
from rllib_agg.aggregation.parameter_sharing import SharingGroup
from rllib_agg.qmix.learner import QMIXLearner


class NetworkMerging:
    """Merges the agents' networks and, as set, their targets and optimiser moments.

    Targets are a part of what is exchanged. Moments are sent uncompressed, and averaged over the agents that sent, with the
    same weights.

    :param groups: Which agents merge with each other.
    :param ledger: Counts what all n agents send and receive.
    :param targets: Whether targets are merged.
    :param seed: The run's, for codecs that draw.
    """

    def __init__(
        self,
        scheme: Scheme,
        learner: QMIXLearner,
        groups: list[NDArray[np.int64]],
        ledger: Ledger,
        *,
        targets: bool,
        seed: int,
    ) -> None:
        assert isinstance(scheme.payload, Parameters)
        self._payload, self._learner, self._targets = scheme.payload, learner, targets
        self._scheme, self._agents, self._ledger, self._seed = scheme, groups, ledger, seed
        self._begin()

    def _begin(self) -> None:
        self._groups = [(agents, SharingGroup(self._exchange(agents), self._own(agents))) for agents in self._agents]

    def _exchange(self, agents: NDArray[np.int64]) -> Exchange:
        return Exchange(self._scheme, len(agents), ledger=self._ledger, agents=agents, seed=self._seed)

    @torch.no_grad()
    def step(self, rewards: NDArray[np.float64], num_samples: int) -> bool:
        """Count a gradient step, and merge if it is due.

        :param rewards: What each agent has earned ``[n]``.
        :param num_samples: Environment steps of each agent.
        :return: Whether agents merged.
        """
        due = [(agents, group) for agents, group in self._groups if group.exchange.due()]
        merged = [
            agents for agents, group in due if self._merge(agents, group, torch.from_numpy(rewards[agents]), num_samples)
        ]
        for _, group in self._groups:
            group.exchange.end_update()
        if self._payload.moments == "reset" and sum(map(len, merged)) == len(rewards):
            for state in self._states():
                if "step" in state:  # Adam's, by which it corrects young moments
                    state["step"].zero_()
        return bool(merged)

    def _merge(self, agents: NDArray[np.int64], group: SharingGroup, rewards: Tensor, num_samples: int) -> bool:
        moments, reference = self._moments(), group.reference
        signals = Signals(returns=rewards.to(reference.device), num_samples=reference.new_full((len(agents),), num_samples))
        along = _by_agent(moments, agents) if self._payload.moments == "merge" and moments else []
        merged = group.merge(self._own(agents), signals, along=along)
        if merged is not None and self._payload.moments == "reset":
            for moment in moments:
                moment[agents] = 0
        return merged is not None

    def _parameters(self) -> list[Tensor]:
        """What is merged ``[n, ...]`` each."""
        team = self._learner.team
        networks = (team.networks, team.target_networks) if self._targets else (team.networks,)
        return [
            named[name]
            for named in (dict(each.named_parameters()) for each in networks)
            for name in self._payload.selected(named)
        ]

    def _own(self, agents: NDArray[np.int64]) -> list[list[Tensor]]:
        """The same by agent ``[g]``."""
        return _by_agent(self._parameters(), agents)

    def _states(self) -> list[dict[str, Any]]:
        """What optimisers remember of each parameter that is merged."""
        optimizers = [optimizer for _, optimizer in self._learner.optimizers()]
        return [optimizer.state.get(parameter, {}) for parameter in self._parameters() for optimizer in optimizers]

    def _moments(self) -> list[Tensor]:
        """Tensors of :meth:`_states` ``[n, ...]``; others, such as step counts, belong to all agents."""
        shapes = {parameter.shape for parameter in self._parameters()}
        return [value for state in self._states() for value in state.values() if getattr(value, "shape", None) in shapes]

    @property
    def followed(self) -> dict[str, float]:
        """What a budget of bytes moves, the mean of the groups."""
        each = [group.exchange.followed for _, group in self._groups]
        return {name: float(np.mean([own[name] for own in each])) for name in (each[0] if each else {})}

    def state_dict(self) -> list[dict[str, Any]]:
        """What each group has exchanged, without the ledger, which is the team's."""
        states = [group.state_dict() for _, group in self._groups]
        return [{name: value for name, value in state.items() if name != "ledger"} for state in states]

    def load_state_dict(self, states: Sequence[Mapping[str, Any]] | None) -> None:
        """Restore :meth:`state_dict`, once the networks are restored; other groups, or ``None``, start afresh."""
        self._begin()
        sizes = [len(agents) for agents in self._agents]
        if states is not None and [state["num_agents"] for state in states] == sizes:
            for (_, group), state in zip(self._groups, states, strict=True):
                group.load_state_dict(state)


def _by_agent(stacked: list[Tensor], agents: NDArray[np.int64]) -> list[list[Tensor]]:
    """Views of tensors ``[n, ...]``, for each of some agents ``[g]``."""
    return [[tensor.detach()[agent] for tensor in stacked] for agent in agents.tolist()]
