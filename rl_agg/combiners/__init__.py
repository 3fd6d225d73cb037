"""Combiners of all agents' gradients, such as the median. Axes: A agents, P parameters.

A combiner maps the matrix of gradients ``[A, P]`` to one ``[P]`` on the scale of their mean, so that identical gradients
combine to themselves. The robust ones tolerate a few agents that send arbitrary gradients.
"""

from rl_agg.combiners.base import Combiner
from rl_agg.combiners.geometric_median import GeometricMedian
from rl_agg.combiners.krum import Krum
from rl_agg.combiners.median import Median
from rl_agg.combiners.mixtailor import MixTailor
from rl_agg.combiners.registry import COMBINERS, TORCHJD, combine, make_combiner, register_combiner
from rl_agg.combiners.torchjd import TorchJD
from rl_agg.combiners.trimmed_mean import TrimmedMean

COMBINERS["mixtailor"] = MixTailor  # which draws among the others

__all__ = [
    "COMBINERS",
    "TORCHJD",
    "Combiner",
    "GeometricMedian",
    "Krum",
    "Median",
    "MixTailor",
    "TorchJD",
    "TrimmedMean",
    "combine",
    "make_combiner",
    "register_combiner",
]
