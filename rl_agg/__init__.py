"""The shared core of rl-agg: what agents report, how much each counts, and how to compare the outcome."""

from importlib.metadata import version

from rl_agg.combiners import COMBINERS, Combiner, combine
from rl_agg.ledger import Ledger
from rl_agg.payloads import LOCAL_SCHEMES
from rl_agg.signals import Signals
from rl_agg.weighting import RULES, Weighting, weights

__version__ = version("rl-agg")
__all__ = [
    "COMBINERS",
    "LOCAL_SCHEMES",
    "RULES",
    "Combiner",
    "Ledger",
    "Signals",
    "Weighting",
    "combine",
    "weights",
]
