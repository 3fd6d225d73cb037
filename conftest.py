"""Every Python block of the README and the documentation runs as a test, those of one page in order and with one namespace."""

from __future__ import annotations

from typing import Any

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser


def _close_ray(namespace: dict[str, Any]) -> None:
    """Stop what a page's blocks have built."""
    import ray

    for value in namespace.values():
        if hasattr(value, "stop") and hasattr(value, "train"):
            value.stop()
    ray.shutdown()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"], teardown=_close_ray, name="documentation"
).pytest()
