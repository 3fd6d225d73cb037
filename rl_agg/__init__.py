"""The shared core of rl-agg: what agents report, how much each counts, and how to compare the outcome."""

from importlib.metadata import version

from rl_agg.signals import Signals
from rl_agg.weighting import RULES, Weighting, weights

__version__ = version("rl-agg")
__all__ = ["RULES", "Signals", "Weighting", "weights"]
