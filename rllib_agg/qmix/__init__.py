"""QMIX, which RLlib removed in 2.8, on the new API stack, with VDN, QTRAN, Weighted QMIX, independent learners and periodic
parameter sharing.
"""

from rllib_agg.qmix.module import QMIXModule
from rllib_agg.qmix.qmix import QMIX, QMIXConfig

__all__ = ["QMIX", "QMIXConfig", "QMIXModule"]
