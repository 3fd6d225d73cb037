"""Aggregation across agents for RLlib's new API stack."""

from rllib_agg.a3c import A3C, A3CConfig
from rllib_agg.aggregation import AgentTagging, LearnerLostError
from rllib_agg.appo import AggAPPO, AggAPPOConfig
from rllib_agg.es import ES, ESConfig
from rllib_agg.impala import AggIMPALA, AggIMPALAConfig
from rllib_agg.ppo import AggPPO, AggPPOConfig
from rllib_agg.qmix import QMIX, QMIXConfig
from rllib_agg.tabular import DAVIA, DQL, EBCDQL, DAVIAConfig, DQLConfig, EBCDQLConfig

__all__ = [
    "A3C",
    "DAVIA",
    "DQL",
    "EBCDQL",
    "ES",
    "QMIX",
    "A3CConfig",
    "AgentTagging",
    "AggAPPO",
    "AggAPPOConfig",
    "AggIMPALA",
    "AggIMPALAConfig",
    "AggPPO",
    "AggPPOConfig",
    "DAVIAConfig",
    "DQLConfig",
    "EBCDQLConfig",
    "ESConfig",
    "LearnerLostError",
    "QMIXConfig",
]
