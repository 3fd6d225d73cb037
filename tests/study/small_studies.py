"""A study that needs no framework, and records for its cells."""

from rl_agg.study.analysis.records import CellUpdate, encoded
from rl_agg.study.spec.loading import resolve
from rl_agg.study.spec.study import Budget, Environment, Study, System

ORIGIN = {"versions": {"rl-agg": "0.1.0"}, "commit": None, "host": "here", "platform": "this"}


def small(**changes):
    given = {
        "name": "small",
        "baseline": "a",
        "systems": {"a": System("m:A"), "b": System("m:B")},
        "environments": {"X-v0": Environment()},
        "budget": Budget(updates=3),
        **changes,
    }
    return resolve(Study(**given))


def update(number, value=1.5):
    return CellUpdate(number, 16 * number, 0.5 * number, value, 2, [value, value], {"agg/bytes": 100.0 * number})


def record(cell, value=1.5):
    return encoded(cell, [update(number, value) for number in (1, 2, 3)], ORIGIN)
