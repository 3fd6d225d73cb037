"""QMIX, which RLlib removed in 2.8, on the new API stack, with VDN, independent learners and periodic parameter sharing."""

from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.qmix import QMIX, QMIXConfig

__all__ = ["QMIX", "QMIXConfig", "QMIXModule"]
