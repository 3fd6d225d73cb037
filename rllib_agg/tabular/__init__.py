"""Distributed Q-learning, its event-triggered kind and approximate value iteration, on RLlib's env runners."""

from rllib_agg.tabular.module import LinearModule, TableModule
from rllib_agg.tabular.tabular import DAVIA, DQL, EBCDQL, DAVIAConfig, DQLConfig, EBCDQLConfig

__all__ = ["DAVIA", "DQL", "EBCDQL", "DAVIAConfig", "DQLConfig", "EBCDQLConfig", "LinearModule", "TableModule"]
