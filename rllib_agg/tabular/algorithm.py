"""Tabular algorithms on env runners."""

from __future__ import annotations

from typing import Any

from rl_agg.seeding import fresh_run
from rl_agg.tabular import DaviaLearner, QLearner
from rllib_agg.server_loop.population import EpisodicAlgorithm
from rllib_agg.tabular.config import DAVIAConfig, DQLConfig, EBCDQLConfig


class TabularAlgorithm(EpisodicAlgorithm):
    """Keeps what the centre learned in the module."""

    centre: QLearner | DaviaLearner

    @property
    def centre_settings(self) -> dict[str, Any]:
        """What every centre is told."""
        run = fresh_run() if self.config.seed is None else int(self.config.seed)
        return {"gamma": self.config.gamma, "run": run, "settings": self.config.settings}

    def read_module(self) -> None:
        """Parameters may have been restored by themselves."""
        self.centre.theta = self.module.read()

    def write_module(self) -> None:
        """Parameters, and what to act on."""
        self.module.write(self.centre.theta, self.centre.action_values)


class DQL(TabularAlgorithm):
    """Distributed Q-learning."""

    centre: QLearner

    @classmethod
    def get_default_config(cls) -> DQLConfig:
        """The config it is built from."""
        return DQLConfig()

    def make_centre(self) -> QLearner:
        """A table."""
        return QLearner(self.agents.episodes.shape, **self.centre_settings)


class EBCDQL(DQL):
    """Event-based communication in distributed Q-learning."""

    @classmethod
    def get_default_config(cls) -> EBCDQLConfig:
        """The config it is built from."""
        return EBCDQLConfig()


class DAVIA(TabularAlgorithm):
    """Distributed approximate value iteration."""

    centre: DaviaLearner

    @classmethod
    def get_default_config(cls) -> DAVIAConfig:
        """The config it is built from."""
        return DAVIAConfig()

    def make_centre(self) -> DaviaLearner:
        """A linear function, with the model to act on it."""
        return DaviaLearner(self.agents.features, self.agents.model, **self.centre_settings)
