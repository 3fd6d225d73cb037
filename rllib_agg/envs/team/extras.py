"""Imports of optional packages."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, backend: str) -> Any:
    """Import a module that a backend needs; ``ImportError`` names the extra, if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(f"the backend {backend} needs {package}: pip install 'rl-agg[marl]'") from error
