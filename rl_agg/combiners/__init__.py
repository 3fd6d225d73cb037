"""Gradients of all agents, combined by more than a weighted sum. Axes: A agents, P parameters.

A combiner maps the matrix of gradients ``[A, P]`` to one ``[P]`` on the scale of their mean, so that identical gradients
combine to themselves. The robust ones bear some agents that send anything at all, as long as they are few.
"""

from rl_agg.combiners.base import Combiner
from rl_agg.combiners.geometric_median import GeometricMedian
from rl_agg.combiners.krum import Krum
from rl_agg.combiners.registry import COMBINERS, TORCHJD, MixTailor, combine, make_combiner
from rl_agg.combiners.torchjd import TorchJD
from rl_agg.combiners.trimmed_mean import Median, TrimmedMean

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
]
