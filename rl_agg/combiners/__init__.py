"""Combiners of all agents' gradients, such as the median. Axes: A agents, P parameters.

A combiner maps the matrix of gradients ``[A, P]`` to one ``[P]`` on the scale of their mean, so that identical gradients
combine to themselves. The robust ones tolerate a few agents that send arbitrary gradients.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rl_agg.combiners.base import Combiner, check_matrix
from rl_agg.combiners.geometric_median import GeometricMedian
from rl_agg.combiners.krum import Krum
from rl_agg.combiners.median import Median
from rl_agg.combiners.mixtailor import MixTailor
from rl_agg.combiners.torchjd import TorchJD
from rl_agg.combiners.trimmed_mean import TrimmedMean
from rl_agg.registry import Registry, check_member
from rl_agg.validation import build, unknown_choice

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

TORCHJD = "torchjd:"

COMBINERS: Registry[type[Combiner]] = Registry(
    "combiner",
    "aggregation",
    {
        "median": Median,
        "trimmed_mean": TrimmedMean,
        "krum": Krum,
        "geometric_median": GeometricMedian,
        "mixtailor": MixTailor,
    },
)
"""Combiners by name; ``torchjd:NAME`` adds those of TorchJD."""


def register_combiner(name: str, combiner: type[Combiner]) -> None:
    """Let ``aggregation=name`` stand for a combiner.

    :param name: What users write.
    :param combiner: Built as ``combiner(**settings)``.
    :raises ValueError: if the name is taken or not an identifier, or ``combiner`` is not a concrete subclass of
        :class:`Combiner`.
    """
    check_member("combiner", Combiner, combiner)
    COMBINERS.register(name, combiner)


def make_combiner(name: str, settings: Mapping[str, Any]) -> Combiner:
    """Build a combiner by name.

    :param name: A name from :data:`COMBINERS`, or ``torchjd:NAME``.
    :param settings: Its settings.
    :raises ValueError: if the name, a setting or a value is unknown.
    :raises ImportError: if TorchJD is needed and not installed.
    """
    if isinstance(name, str) and name.startswith(TORCHJD):
        return TorchJD(name.removeprefix(TORCHJD), settings)
    if name not in COMBINERS:
        raise unknown_choice("combiner", name, [*COMBINERS, "torchjd:NAME"])
    return build(name, COMBINERS[name], settings)


def combine(name: str, gradients: Any, **settings: Any) -> Tensor:
    """Combine gradients by name.

    >>> combine("median", [[0.0], [1.0], [100.0]])
    tensor([1.])

    :param name: As :func:`make_combiner`.
    :param gradients: ``[A, P]``; rows that are not finite are left out.
    :param settings: Settings of the combiner.
    :return: ``[P]``, detached; zeros if no row is finite.
    :raises ValueError: as :func:`make_combiner`, if ``gradients`` is not a matrix, or if the combiner cannot work with A
        agents.
    """
    combiner, matrix = make_combiner(name, settings), torch.as_tensor(gradients).detach()
    if matrix.is_complex():
        raise ValueError(f"gradients must be real numbers [A, P], got {matrix.dtype}")
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.get_default_dtype())
    check_matrix(matrix)
    combiner.check(len(matrix))
    return combiner(matrix, present=matrix.isfinite().all(1))
