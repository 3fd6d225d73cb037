"""The loss of a team's values, from whole episodes.

Axes: B episodes, T time, n agents, a actions, s size of the state, k values of a step (1 of the team, or one of each agent), m
networks, K sequences of each network, d inputs, H units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.mixer import mix
from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.targets import td_lambda_targets, valid_steps

ILLEGAL = -1e9
"""Value of an illegal action; finite, so that steps after an episode's end stay finite."""

Q_TAKEN_MEAN = "q_taken_mean"


@dataclass(frozen=True, slots=True)
class TeamBatch:
    """B episodes, where and as precise as the networks.

    :param inputs: Of the agents' networks ``[m, T+1, K, d]``.
    :param start: Their hidden states before the first step ``[m, K, H]``.
    :param states: ``[B, T+1, s]``.
    :param masks: Legal actions ``[B, T+1, n, a]``.
    :param actions: ``[B, T, n]``.
    :param rewards: The team's ``[B, T]``.
    :param lengths: Steps ``[B]``.
    :param ended: Episodes that have no value after their last step ``[B]``.
    :param observed: Observations of each ``[B]``, one more than steps, descending.
    """

    inputs: Tensor
    start: Tensor
    states: Tensor
    masks: Tensor
    actions: Tensor
    rewards: Tensor
    lengths: Tensor
    ended: Tensor
    observed: NDArray[np.int64]

    @classmethod
    def of(cls, episodes: TeamEpisodes, networks: AgentNetworks) -> TeamBatch:
        """Order episodes by length, and move them to where the networks are."""
        episodes, weight = episodes.longest_first(), networks.head.weight
        masks = torch.from_numpy(episodes.unpacked_masks(networks.num_actions)).to(weight.device)
        states = torch.from_numpy(episodes.states).to(weight)
        rewards, lengths, ended = (
            torch.from_numpy(array).to(weight.device) for array in (episodes.rewards, episodes.lengths, episodes.terminated)
        )
        actions = torch.from_numpy(episodes.actions).to(weight.device, torch.int64)
        no_action = torch.full_like(actions[:, :1], -1)
        observations = torch.from_numpy(episodes.observations).to(weight.device)
        inputs = networks.arrange(observations, torch.cat([no_action, actions], dim=1))
        start, observed = networks.start(len(episodes)), episodes.lengths + 1
        return cls(inputs, start, states, masks, actions, rewards, lengths, ended, observed)

    @property
    def valid(self) -> Tensor:
        """Which steps belong to an episode ``[B, T, 1]``."""
        return valid_steps(self.lengths, self.actions.shape[1]).unsqueeze(-1)


class TeamLoss(ABC):
    """What a team's networks minimise; ``config`` is a QMIXConfig."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def __call__(self, team: QMIXModule, batch: TeamBatch) -> dict[str, Tensor]:
        """``total_loss``, which is differentiated, and what else to log; scalars."""

    def targets(self, batch: TeamBatch, next_values: Tensor) -> Tensor:
        """What values are to become ``[B, T, k]``, from those after each step ``[B, T, k]``."""
        config = self.config
        return td_lambda_targets(
            batch.rewards,
            next_values,
            batch.lengths,
            batch.ended,
            gamma=config.gamma,
            lambda_=config.td_lambda,
        )


class TDLoss(TeamLoss):
    """The mean squared error of the chosen actions' values: QMIX, VDN and independent learners.

    Source: Rashid et al. (2018), equations 5 and 6; double Q-learning: van Hasselt et al. (2016).
    """

    def __call__(self, team: QMIXModule, batch: TeamBatch) -> dict[str, Tensor]:
        """The loss, the error, the values and their targets."""
        values, _ = team.networks(batch.inputs, batch.start, batch.observed)  # [B, T+1, n, a]
        chosen = pick(values[:, :-1], batch.actions)
        with torch.no_grad():
            # From the first step on, as the recurrent state of the targets depends on all steps before.
            target_values, _ = team.target_networks(batch.inputs, batch.start, batch.observed)
            selector = values.detach() if self.config.double_q else target_values
            best = greedy(selector[:, 1:], batch.masks[:, 1:])
            next_values = pick(target_values[:, 1:], best)
            targets = self.targets(batch, mix(team.target_mixer, next_values, batch.states[:, 1:]))
        mixed = mix(team.mixer, chosen, batch.states[:, :-1])  # [B, T, k]
        return td_measures(mixed, targets, batch.valid)


def pick(values: Tensor, actions: Tensor) -> Tensor:
    """Values of some actions ``[B, T, n]``, from those of all ``[B, T, n, a]``."""
    return values.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def greedy(values: Tensor, masks: Tensor) -> Tensor:
    """The best legal actions ``[B, T, n]``, by values and masks ``[B, T, n, a]``."""
    return values.masked_fill(~masks, ILLEGAL).argmax(-1)


def td_measures(values: Tensor, targets: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Means over the valid steps ``[B, T, 1]`` of values and targets ``[B, T, k]``; ``total_loss`` is the squared error."""
    errors = torch.where(valid, values - targets, 0.0)
    count = valid.sum() * values.shape[-1]
    return {
        "total_loss": errors.square().sum() / count,
        "td_error_abs_mean": errors.abs().sum() / count,
        Q_TAKEN_MEAN: torch.where(valid, values, 0.0).sum() / count,
        "target_mean": torch.where(valid, targets, 0.0).sum() / count,
    }
