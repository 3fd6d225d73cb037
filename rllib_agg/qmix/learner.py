"""One gradient step on a team's values."""

from __future__ import annotations

from typing import Any

from ray.rllib.core import DEFAULT_MODULE_ID
from torch import Tensor

from rllib_agg.aggregation.finite_step import FiniteSteps
from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.losses import TDLoss, TeamBatch, TeamLoss
from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.qtran import QTRANLoss
from rllib_agg.qmix.weighted import WeightedLoss
from rllib_agg.server_loop.learner import ServerLearner


class QMIXLearner(FiniteSteps, ServerLearner):
    """Learns from whole episodes."""

    def build(self) -> None:
        """Choose the loss."""
        super().build()
        self.loss = make_loss(self.config)

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
        self.unfit_modules = unfit = self.modules_with_corrupt_gradient(gradients)
        self.apply_gradients(gradients if unfit else self.postprocess_gradients(gradients))
        if self.config.average_decay is not None and not unfit:
            self.team.update_average(self.config.average_decay)
        return {name: value.detach() for name, value in measures.items()}

    def td_loss(self, episodes: TeamEpisodes) -> dict[str, Tensor]:
        """``total_loss``, what B episodes cost by the config's loss, and what else to log.

        :param episodes: With rewards and states as :class:`~rllib_agg.qmix.server.TeamServer` hands them out; those that
            terminated have no value after their last step.
        """
        return self.loss(self.team, TeamBatch.of(episodes, self.team.networks))


def make_loss(config: Any) -> TeamLoss:
    """What a QMIXConfig's team minimises."""
    if config.mixer == "qtran":
        return QTRANLoss(config)
    return TDLoss(config) if config.weighting is None else WeightedLoss(config)
