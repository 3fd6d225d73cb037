"""One gradient step on a team's values.

Axes: B episodes, T time, n agents, a actions, k values of a step (1 of the team, or one of each agent).
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_agg.aggregation.finite_step import FiniteSteps
from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.mixer import mix
from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.targets import td_lambda_targets, valid_steps
from rllib_agg.server_loop.learner import ServerLearner

ILLEGAL = -1e9
"""Value of an illegal action; finite, so that steps after an episode's end stay finite."""

Q_TAKEN_MEAN = "q_taken_mean"


class QMIXLearner(FiniteSteps, ServerLearner):
    """Learns from whole episodes.

    Source: Rashid et al. (2018), equations 5 and 6; double Q-learning: van Hasselt et al. (2016).
    """

    @property
    def team(self) -> QMIXModule:
        """The module."""
        module: QMIXModule = self.module[DEFAULT_MODULE_ID].unwrapped()
        return module

    def get_parameters(self, module: Any) -> list[Tensor]:
        """Those that are learned; targets follow them."""
        return [parameter for parameter in module.parameters() if parameter.requires_grad]

    def learn(self, episodes: TeamEpisodes) -> dict[str, Tensor]:
        """Take one gradient step on B episodes, and return what to log."""
        measures = self.td_loss(episodes)
        gradients = self.compute_gradients({DEFAULT_MODULE_ID: measures["total_loss"]})
        # Before clipping: a norm of NaN would turn all gradients into NaN.
        self.unfit_modules = self.modules_with_corrupt_gradient(gradients)
        self.apply_gradients(gradients if self.unfit_modules else self.postprocess_gradients(gradients))
        return {name: value.detach() for name, value in measures.items()}

    def td_loss(self, episodes: TeamEpisodes) -> dict[str, Tensor]:
        """``total_loss``, the mean squared error of the chosen actions' values in B episodes, and what else to log.

        :param episodes: With rewards and states as :class:`~rllib_agg.qmix.server.TeamServer` hands them out; those that
            terminated have no value after their last step.
        """
        module, config, episodes = self.team, self.config, episodes.longest_first()
        networks, device = module.networks, module.networks.head.weight.device
        masks = torch.from_numpy(episodes.unpacked_masks(networks.num_actions)).to(device)
        states = torch.from_numpy(episodes.states).to(device, torch.float32)
        rewards, lengths, terminated = (
            torch.from_numpy(array).to(device) for array in (episodes.rewards, episodes.lengths, episodes.terminated)
        )
        actions = torch.from_numpy(episodes.actions).to(device, torch.int64)
        no_action = torch.full_like(actions[:, :1], -1)
        inputs = networks.arrange(torch.from_numpy(episodes.observations).to(device), torch.cat([no_action, actions], dim=1))

        observed = episodes.lengths + 1
        values, _ = networks(inputs, networks.start(len(episodes)), observed)  # [B, T+1, n, a]
        chosen = values[:, :-1].gather(-1, actions.unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            # From the first step on, as the recurrent state of the targets depends on all steps before.
            target_values, _ = module.target_networks(inputs, networks.start(len(episodes)), observed)
            selector = values.detach() if config.double_q else target_values
            best = selector[:, 1:].masked_fill(~masks[:, 1:], ILLEGAL).argmax(-1, keepdim=True)
            next_values = target_values[:, 1:].gather(-1, best).squeeze(-1)
            targets = td_lambda_targets(
                rewards,
                mix(module.target_mixer, next_values, states[:, 1:]),
                lengths,
                terminated,
                gamma=config.gamma,
                lambda_=config.td_lambda,
            )
        team = mix(module.mixer, chosen, states[:, :-1])  # [B, T, k]
        valid = valid_steps(lengths, actions.shape[1]).unsqueeze(-1)
        errors = torch.where(valid, team - targets, 0.0)
        count = valid.sum() * team.shape[-1]
        return {
            "total_loss": errors.square().sum() / count,
            "td_error_abs_mean": errors.abs().sum() / count,
            Q_TAKEN_MEAN: torch.where(valid, team, 0.0).sum() / count,
            "target_mean": torch.where(valid, targets, 0.0).sum() / count,
        }
