"""Fields of a buffer's minibatch, which may hold more than tensors: a named tuple or a dataclass. Axis B: samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor


def fields_of(samples: Any) -> list[Any]:
    """The fields, in order."""
    if isinstance(samples, tuple):
        return list(samples)
    return [getattr(samples, field.name) for field in dataclasses.fields(samples)]


def with_fields(samples: Any, fields: Iterable[Any]) -> Any:
    """The same kind of minibatch with other fields."""
    if isinstance(samples, tuple):
        return type(samples)(*fields)
    names = (field.name for field in dataclasses.fields(samples))
    return dataclasses.replace(samples, **dict(zip(names, fields, strict=True)))


def has_rows(item: Any, size: int) -> bool:
    """Whether it is a tensor or an array with a row for each of B samples."""
    return isinstance(item, Tensor | np.ndarray) and item.shape[:1] == (size,)


def num_rows(item: Any) -> int:
    """The number of samples in a batch."""
    return len(next(iter(item.values())) if isinstance(item, dict) else item)
