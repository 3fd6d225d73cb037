"""Checks of an installation of StarCraft II and its Python packages, with remedies."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

SMAC = "pip install git+https://github.com/oxwhirl/smac.git"
SMACV2 = "pip install git+https://github.com/oxwhirl/smacv2.git"
GAME = "https://github.com/Blizzard/s2client-proto#linux-packages"
MAPS = {
    "smac": "https://github.com/oxwhirl/smac/releases/download/v0.1-beta1/SMAC_Maps.zip",
    "smacv2": "https://github.com/oxwhirl/smacv2/releases/download/maps/SMAC_Maps.zip",
}


class StarCraftError(RuntimeError):
    """The installation of StarCraft II is incomplete; the message names the remedy."""


def import_smac(module: str, remedy: str) -> ModuleType:
    """Import SMAC or SMACv2, of which the remedy is the command that installs it.

    :raises ImportError: if it is not installed, if another package of that name is, or if its protobuf is incompatible.
    """
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"the backend {package} needs {package}, which is not on PyPI: {remedy}")
    try:
        found = importlib.util.find_spec(module)
    except ImportError:  # SMAC3's own imports may fail
        found = None
    if found is None:
        raise ImportError(
            f"the installed package {package!r} is not StarCraft's: on PyPI, smac is SMAC3, an AutoML tool; "
            f"pip uninstall smac; {remedy}"
        )
    try:
        return importlib.import_module(module)
    except Exception as error:  # protobuf raises its own, and TypeError
        text = f"{type(error).__name__}: {error}"
        if any(word in text.lower() for word in ("protobuf", "descriptor", "_pb2")):
            raise ImportError(
                f"{package} cannot be imported, because s2clientprotocol is older than the installed protobuf ({text}); set "
                "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python before Python starts, or, in an environment without Ray, "
                "pip install 'protobuf<3.21'"
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(package):
            raise ImportError(f"{package} needs {error.name}: pip install {error.name.partition('.')[0]}") from error
        raise


def check_game(package: str, map_file: str) -> None:
    """Raise if the game or a map's file is missing, which the package itself reports at the first reset only.

    :raises StarCraftError: naming the remedy.
    """
    game = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
    if not any((game / "Versions").glob("Base*")):
        raise StarCraftError(f"no StarCraft II in {game}: download it from {GAME}, unzip it, and set SC2PATH to its folder")
    maps = game / "Maps" / "SMAC_Maps"
    if not (maps / f"{map_file}.SC2Map").is_file():
        missing = f"the map {map_file} is not in {maps}" if maps.is_dir() else f"no maps in {maps}"
        raise StarCraftError(f"{missing}: download {MAPS[package]} and unzip it in {game / 'Maps'}")
