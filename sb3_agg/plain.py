"""Objects as text, for files that stock algorithms and torch's safe loader read past."""

from __future__ import annotations

import base64
import io
import pickle
from types import FunctionType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import torch
from stable_baselines3.common.save_util import is_json_serializable
from torch import Tensor

import rl_agg
from rl_agg import attacks, combiners, local_schemes, payloads, rules, schedules, weighting

PICKLED = "cloudpickle"
"""The one key of what stands for an object."""

PUBLIC = (rl_agg, combiners, local_schemes, payloads, schedules, attacks, weighting, rules)
"""Where our classes and functions are looked up by name: a file outlives the modules that define them."""


def plain_setting(item: Any) -> Any:
    """A setting as JSON can hold it.

    :param item: Anything that can be pickled.
    :return: Itself, if it is plain; otherwise a dict of one text, for :func:`unpickled`.
    """
    return item if is_json_serializable(item) else _pickled(item)


def plain_state(item: Any) -> Any:
    """A ``state_dict`` as ``torch.load(weights_only=True)`` opens it: containers, tensors, plain numbers and texts.

    :param item: Anything that can be pickled.
    :return: For :func:`restored_state`.
    """
    if type(item) is dict:
        return {key: plain_state(part) for key, part in item.items()}
    if type(item) in (list, tuple):
        return type(item)(map(plain_state, item))
    return item if item is None or type(item) in (bool, int, float, str, Tensor) else _pickled(item)


def restored_state(item: Any) -> Any:
    """What :func:`plain_state` was given; shares no tensor with its argument."""
    item = unpickled(item)
    if type(item) is dict:
        return {key: restored_state(part) for key, part in item.items()}
    if type(item) in (list, tuple):
        return type(item)(map(restored_state, item))
    return item.clone() if type(item) is Tensor else item


def unpickled(item: Any) -> Any:
    """The object that a dict of one text stands for; anything else is returned as it is."""
    if not isinstance(item, dict) or item.keys() != {PICKLED}:
        return item
    return _Unpickler(io.BytesIO(base64.b64decode(item[PICKLED]))).load()


def _pickled(item: Any) -> dict[str, str]:
    file = io.BytesIO()
    _Pickler(file).dump(item)
    return {PICKLED: base64.b64encode(file.getvalue()).decode()}


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Names what is ours without its module, and puts tensors on the CPU, where any machine can open them."""

    def persistent_id(self, item: Any) -> Any:
        if isinstance(item, Tensor) and item.is_cuda:
            return (item.detach().cpu(),)
        if not isinstance(item, type | FunctionType) or not str(item.__module__).startswith("rl_agg."):
            return None
        name: str = item.__name__
        return name if _public(name) is item else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, saved: Any) -> Any:
        if isinstance(saved, tuple):
            return saved[0].cuda() if torch.cuda.is_available() else saved[0]
        found = _public(saved)
        if found is None:
            raise pickle.UnpicklingError(f"the file names {saved!r} of rl_agg, which this version does not have")
        return found


def _public(name: str) -> Any:
    return next((getattr(module, name) for module in PUBLIC if hasattr(module, name)), None)
