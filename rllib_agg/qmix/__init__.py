"""QMIX, which RLlib removed in 2.8, on the new API stack, with VDN, independent learners and periodic parameter sharing."""

from rllib_agg.qmix.algorithm import QMIX
from rllib_agg.qmix.config import QMIXConfig
from rllib_agg.qmix.module import QMIXModule

__all__ = ["QMIX", "QMIXConfig", "QMIXModule"]
