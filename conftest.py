"""One Ray for all tests of a process. Python blocks of a page run as tests, in order and with one namespace."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.myst import CodeBlockParser

from rl_agg import CODECS, COMBINERS, GATES, PAYLOADS, RULES, SCHEDULES

os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")  # a sixth of what each of Ray's workers takes to start
torch.set_num_threads(1)  # the machines that run this are small, and sums have one order

LONGEST = (
    "study/test_engine.py",
    "rllib/test_faults.py",
    "rllib/test_team_smax.py",
    "rllib/test_a3c.py",
    "study/test_registered.py",
    "rllib/test_es.py",
    "rllib/test_communication.py",
    "rllib/test_local_learners.py",
    "rllib/test_combiners.py",
    "rllib/test_gradients.py",
    "rllib/test_qmix.py",
    "rllib/test_examples.py",
    "sb3/test_combinations.py",
    "study/test_cli.py",
    "study/test_rllib.py",
    "rllib/test_vtrace.py",
    "rllib/test_sharding.py",
)
"""Files of half a minute or more, the longest first."""

REMOTE_PAGES = ("a3c.md", "agg_ppo_rllib.md", "es.md")
"""Pages whose blocks start several processes of Ray's."""

SLOW_PAGES = ("quickstart_rllib.md", "team.md")
"""Pages whose blocks build several of RLlib's algorithms, which other pages and tests build too."""

SHOWN = re.compile(r"^(?P<expression>\S.*?)  # (?P<value>tensor\(.*)$", re.MULTILINE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or one of them is left running alone at the end; mark pages."""
    for item in items:
        if item.path.name in REMOTE_PAGES:
            item.add_marker("remote")
        if item.path.name in SLOW_PAGES:
            item.add_marker("slow")
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A study's own Ray: studies that run in this process use it, as do algorithms."""
    from ray.tune.trainable import trainable

    from rl_agg.study.run.engine import ray_session

    with pytest.MonkeyPatch.context() as patch, ray_session(num_cpus=8):
        # An algorithm's stop() would wait for Ray's monitor, which sleeps for 0.7 s at a time.
        patch.setattr(trainable.UtilMonitor, "join", lambda monitor, timeout=None: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_learner_threads_left() -> Iterator[None]:
    """End RLlib's threads of learners that nobody shut down: APPO's look for a batch 10,000 times a second."""
    yield
    for thread in threading.enumerate():
        if hasattr(thread, "request_stop"):
            thread.request_stop()


@pytest.fixture(autouse=True)
def _registries_as_before() -> Iterator[None]:
    """Remove the members that a test has registered."""
    yield
    _remove_members()


def _remove_members() -> None:
    for registry in (CODECS, COMBINERS, GATES, PAYLOADS, RULES, SCHEDULES):
        for name in registry.added:
            del registry[name]
        registry.added.clear()


class ShownEvaluator(PythonEvaluator):
    """Runs a block and compares the value in a line's comment with the value of the line."""

    def __call__(self, example: Example) -> None:
        super().__call__(example)
        for line in SHOWN.finditer(example.parsed):
            assert repr(eval(line["expression"], example.namespace)) == line["value"]


def _clean_up(namespace: dict[str, Any]) -> None:
    """Remove the members that a page has registered, and free the CPUs that its algorithms hold."""
    _remove_members()
    for value in namespace.values():
        if not isinstance(value, type) and hasattr(value, "stop") and hasattr(value, "train"):
            value.stop()


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser("python", ShownEvaluator())],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    teardown=_clean_up,
    fixtures=["ray_session"],
    name="documentation",
).pytest()
