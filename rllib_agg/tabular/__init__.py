"""Distributed Q-learning, its event-triggered kind, approximate value iteration and TD-EF, on RLlib's env runners."""

from rllib_agg.tabular.module import LinearModule, TableModule
from rllib_agg.tabular.tabular import DAVIA, DQL, EBCDQL, TDEF, DAVIAConfig, DQLConfig, EBCDQLConfig, TDEFConfig

__all__ = [
    "DAVIA",
    "DQL",
    "EBCDQL",
    "TDEF",
    "DAVIAConfig",
    "DQLConfig",
    "EBCDQLConfig",
    "LinearModule",
    "TDEFConfig",
    "TableModule",
]
