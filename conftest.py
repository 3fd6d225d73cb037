"""Every Python block of the README and the documentation runs as a test, those of one page in order and with one namespace."""

from __future__ import annotations

import re
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

SHOWN = re.compile(r"^(?P<expression>\S.*?)  # (?P<value>tensor\(.*)$", re.MULTILINE)


class ShownEvaluator(PythonEvaluator):
    """Runs a block and compares what a line's comment says that it gives."""

    def __call__(self, example: Example) -> None:
        super().__call__(example)
        for line in SHOWN.finditer(example.parsed):
            assert repr(eval(line["expression"], example.namespace)) == line["value"]


def _close_ray(namespace: dict[str, Any]) -> None:
    """Stop what a page's blocks have built."""
    import ray

    for value in namespace.values():
        if hasattr(value, "stop") and hasattr(value, "train"):
            value.stop()
    ray.shutdown()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", ShownEvaluator())],
    patterns=["README.md", "docs/*.md"],
    teardown=_close_ray,
    name="documentation",
).pytest()
