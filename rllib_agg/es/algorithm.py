"""Evolution strategies on env runners.

Source: Salimans et al. (2017); Gunn (2023), section 2.4.4 and chapter 4.
"""

from __future__ import annotations

import numpy as np

from rl_agg.evolution import EvolutionStrategy
from rl_agg.evolution.normalization import LARGEST
from rl_agg.seeding import fresh_run, stream
from rllib_agg.es.config import ESConfig
from rllib_agg.server_loop.population import EpisodicAlgorithm


class ES(EpisodicAlgorithm):
    """Evolution strategies."""

    centre: EvolutionStrategy

    @classmethod
    def get_default_config(cls) -> ESConfig:
        """The config it is built from."""
        return ESConfig()

    def make_centre(self) -> EvolutionStrategy:
        """Begin with parameters of the run's own."""
        network = self.agents.evaluator.network
        run = fresh_run() if self.config.seed is None else int(self.config.seed)
        return EvolutionStrategy(
            network.initial(stream("start", run)),
            run=run,
            observation_size=network.sizes[0] if self.config.normalize_observations else None,
            settings=self.config.evolution,
        )

    def read_module(self) -> None:
        """Parameters may have been restored by themselves."""
        self.centre.theta = self.module.read()

    def write_module(self) -> None:
        """Parameters, and what observations are normalised by."""
        statistics = self.centre.statistics
        scale = None if statistics is None else (statistics.mean, statistics.deviation, np.float32(LARGEST))
        self.module.write(self.centre.theta, scale)
