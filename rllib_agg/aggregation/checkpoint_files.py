"""What is looked at in a checkpoint before anything of it is restored."""

from __future__ import annotations

import io
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

READERS: dict[str, Callable[[io.BytesIO], Any]] = {
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
    files = _read(path, filesystem)
    _check_class(type(algorithm), files, path)
    states = {}
    for file, content in files.items():
        name = file.with_suffix("")
        if file.suffix in READERS and name.name in {*(needed.name for needed in NEEDED), RLModule.STATE_FILE_NAME}:
            try:
                states[name] = READERS[file.suffix](io.BytesIO(content))
            except Exception as error:
                raise ValueError(f"{file} in checkpoint {path} is damaged: {type(error).__name__}: {error}") from error
    for needed in NEEDED:
        if needed not in states:
            raise ValueError(f"checkpoint {path} is not complete: {needed}.pkl is missing")
    group: Any = algorithm.learner_group
    for module_id, weights in group.get_weights().items():
        _check_weights(
            module_id, weights, states.get(LEARNER / COMPONENT_RL_MODULE / module_id / RLModule.STATE_FILE_NAME), path
        )


def _read(path: str | pathlib.Path, filesystem: pyarrow.fs.FileSystem | None) -> dict[pathlib.PurePosixPath, bytes]:
    """The contents of files, by their paths within a folder."""
    where = str(path)
    if filesystem is None:
        filesystem, where = pyarrow.fs.FileSystem.from_uri(where)
    if filesystem.get_file_info(where).type != pyarrow.fs.FileType.Directory:
        raise FileNotFoundError(f"there is no folder {path}")
    contents = {}
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(where, recursive=True)):
        if info.type == pyarrow.fs.FileType.File:
            with filesystem.open_input_stream(info.path) as stream:
                contents[pathlib.PurePosixPath(info.path).relative_to(where)] = stream.read()
    return contents


def _check_class(own: type, files: Mapping[pathlib.PurePosixPath, bytes], path: str | pathlib.Path) -> None:
    try:
        saved = pickle.loads(files[pathlib.PurePosixPath(Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME)])["class"]
    except Exception:  # of another Python, or of classes that are not installed here: the states tell
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
