"""Features of cells. Axes: C cells, D features."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def matrix(name: str, axes: str, given: ArrayLike) -> Floats:
    """Check that something is a matrix of finite numbers.

    :param name: What users call it.
    :param axes: Its axes, for the message.
    :raises ValueError: if it is none.
    """
    try:
        found = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:  # no numbers, or rows of unequal length
        raise ValueError(f"{name} must be finite numbers {axes}: {error}") from error
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite numbers {axes}, got shape {found.shape}")
    return found


def make_features(given: ArrayLike | None, num_cells: int) -> Floats:
    """phi ``[C, D]``.

    :param given: What a user set; ``None``: one feature for each cell.
    :param num_cells: C.
    :raises ValueError: if there are not C rows of finite numbers.
    """
    features = np.eye(num_cells) if given is None else matrix("features", "[C, D]", given)
    if len(features) != num_cells:
        raise ValueError(f"features must be finite numbers [C, D] with C = {num_cells} cells, got shape {features.shape}")
    return features
