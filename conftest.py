"""Every Python block of the README and the documentation runs as a test, those of one page in order and with one namespace.

With two workers (``pytest -n 2 --dist loadgroup``) tests that need a Ray session are done by those that have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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

ROOT = Path(__file__).parent
NEED_RAY = {
    "rllib": ("tests/rllib",),
    "study": ("tests/sb3/test_tune.py", "tests/study", "README.md", "docs"),
}
"""Groups of tests that share a Ray session, or leave none behind."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a group's tests in one worker."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        for group, folders in NEED_RAY.items():
            if any(item.path.is_relative_to(ROOT / folder) for folder in folders):
                item.add_marker(pytest.mark.xdist_group(group))
