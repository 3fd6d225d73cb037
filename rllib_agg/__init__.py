"""Aggregation across agents for RLlib's new API stack."""

from ray.tune import register_trainable as _register

from rllib_agg.a3c import A3C, A3CConfig, A3CTorchLearner
from rllib_agg.aggregation import AgentTagging, AggLearnerMixin, LearnerLostError
from rllib_agg.aggregation.false_alarms import leave_out_false_alarms as _leave_out_false_alarms
from rllib_agg.appo import AggAPPO, AggAPPOConfig, AggAPPOTorchLearner
from rllib_agg.dqn import AggDQN, AggDQNConfig, AggDQNTorchLearner, DeepEBCDQL, DeepEBCDQLConfig
from rllib_agg.es import ES, ESConfig
from rllib_agg.impala import AggIMPALA, AggIMPALAConfig, AggIMPALATorchLearner
from rllib_agg.ppo import AggPPO, AggPPOConfig, AggPPOTorchLearner
from rllib_agg.qmix import QMIX, QMIXConfig
from rllib_agg.sac import AggSAC, AggSACConfig, AggSACTorchLearner
from rllib_agg.tabular import DAVIA, DQL, EBCDQL, TDEF, DAVIAConfig, DQLConfig, EBCDQLConfig, TDEFConfig

__all__ = [
    "A3C",
    "DAVIA",
    "DQL",
    "EBCDQL",
    "ES",
    "QMIX",
    "TDEF",
    "A3CConfig",
    "A3CTorchLearner",
    "AgentTagging",
    "AggAPPO",
    "AggAPPOConfig",
    "AggAPPOTorchLearner",
    "AggDQN",
    "AggDQNConfig",
    "AggDQNTorchLearner",
    "AggIMPALA",
    "AggIMPALAConfig",
    "AggIMPALATorchLearner",
    "AggLearnerMixin",
    "AggPPO",
    "AggPPOConfig",
    "AggPPOTorchLearner",
    "AggSAC",
    "AggSACConfig",
    "AggSACTorchLearner",
    "DAVIAConfig",
    "DQLConfig",
    "DeepEBCDQL",
    "DeepEBCDQLConfig",
    "EBCDQLConfig",
    "ESConfig",
    "LearnerLostError",
    "QMIXConfig",
    "TDEFConfig",
]

for _algorithm in (A3C, DAVIA, DQL, EBCDQL, ES, QMIX, TDEF, AggAPPO, AggDQN, AggIMPALA, AggPPO, AggSAC, DeepEBCDQL):
    _register(_algorithm.__name__, _algorithm)  # for Ray Tune, by name

_leave_out_false_alarms()  # here and, as they import this package before they make a module, in RLlib's workers
