"""What is looked at in a checkpoint before anything of it is restored."""

from __future__ import annotations

import pathlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow.fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.learner.learner import Learner
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.checkpoints import try_import_msgpack

LEARNER = pathlib.PurePosixPath(COMPONENT_LEARNER_GROUP, COMPONENT_LEARNER)
NEEDED = (pathlib.PurePosixPath(Algorithm.STATE_FILE_NAME), LEARNER / Learner.STATE_FILE_NAME)
"""Files without which nothing is restored, less their suffixes."""

READERS: dict[str, Callable[[Any], Any]] = {
    ".pkl": pickle.load,
    ".msgpack": lambda stream: try_import_msgpack(error=True).load(stream, strict_map_key=False),
}


def check_checkpoint(algorithm: Algorithm, path: str | pathlib.Path, filesystem: pyarrow.fs.FileSystem | None = None) -> None:
    """Check that a checkpoint is complete, can be read and fits.

    :param algorithm: What it is for.
    :param path: RLlib's folder, or its URI.
    :param filesystem: Where it is; ``None``: what the URI says.
    :raises FileNotFoundError: if it does not exist.
    :raises ValueError: naming the file that is missing or damaged, or what does not fit.
    """
    where = str(path)
    if filesystem is None:
        filesystem, where = pyarrow.fs.FileSystem.from_uri(where)
    if filesystem.get_file_info(where).type != pyarrow.fs.FileType.Directory:
        raise FileNotFoundError(f"there is no folder {path}")
    _check_class(type(algorithm), filesystem, where, path)
    found, weights = set(), {}
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(where, recursive=True)):
        file = pathlib.PurePosixPath(info.path).relative_to(where)
        name = file.with_suffix("")
        is_module = name.name == RLModule.STATE_FILE_NAME
        if file.suffix in READERS and (is_module or name in NEEDED):
            found.add(name)
            state = _loaded(filesystem, info.path, file, path)
            if is_module:  # the others may hold a replay
                weights[name.parent] = state
    for needed in NEEDED:
        if needed not in found:
            raise ValueError(f"checkpoint {path} is not complete: {needed}.pkl is missing")
    group: Any = algorithm.learner_group
    for module_id, own in group.get_weights().items():
        _check_weights(module_id, own, weights.get(LEARNER / COMPONENT_RL_MODULE / module_id), path)


def _loaded(filesystem: pyarrow.fs.FileSystem, place: str, file: pathlib.PurePosixPath, path: str | pathlib.Path) -> Any:
    try:
        with filesystem.open_input_stream(place) as stream:
            return READERS[file.suffix](stream)
    except Exception as error:
        raise ValueError(f"{file} in checkpoint {path} is damaged: {type(error).__name__}: {error}") from error


def _check_class(own: type, filesystem: pyarrow.fs.FileSystem, where: str, path: str | pathlib.Path) -> None:
    try:
        with filesystem.open_input_stream(f"{where}/{Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME}") as stream:
            saved = pickle.load(stream)["class"]
    except Exception:  # of another Python, or of classes that are not installed here: the states decide
        return
    if not issubclass(own, saved) and not issubclass(saved, own):
        raise ValueError(f"checkpoint {path} is one of {saved.__name__}, not of {own.__name__}")


def _check_weights(module_id: str, own: Mapping[str, Any], saved: Any, path: str | pathlib.Path) -> None:
    if saved is None:
        raise ValueError(f"checkpoint {path} has no module {module_id!r}")
    shapes, found = ({name: np.shape(value) for name, value in weights.items()} for weights in (own, saved))
    for name in [*shapes, *found]:
        if shapes.get(name) != found.get(name):
            raise ValueError(
                f"module {module_id!r} of checkpoint {path} does not fit: {name} is of shape {found.get(name, 'none')} "
                f"there, and of shape {shapes.get(name, 'none')} here"
            )
