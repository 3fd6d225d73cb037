"""Distributed Q-learning, its event-triggered kind and approximate value iteration, on RLlib's env runners."""

from rllib_agg.tabular.algorithm import DAVIA, DQL, EBCDQL
from rllib_agg.tabular.config import DAVIAConfig, DQLConfig, EBCDQLConfig
from rllib_agg.tabular.module import LinearModule, TableModule

__all__ = ["DAVIA", "DQL", "EBCDQL", "DAVIAConfig", "DQLConfig", "EBCDQLConfig", "LinearModule", "TableModule"]
