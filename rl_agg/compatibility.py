"""Which choices on the five axes, and for the broadcast, go together, as a table: ``python -m rl_agg.compatibility``."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from rl_agg.codecs import CODECS
from rl_agg.combiners import COMBINERS
from rl_agg.gates import GATES
from rl_agg.payloads import PAYLOADS
from rl_agg.rules import RULES
from rl_agg.schedules import SCHEDULES
from rl_agg.scheme import Scheme

DEFAULTS = {"gate": "every", "codec": "identity", "schedule": "every_step", "broadcast": "identity"}
"""Choices that go with every payload and with each other. For the rule there is none."""


def compatibility_table() -> str:
    """What goes with what, found by trying.

    :return: Markdown: a row for each choice with the payloads that it goes with, and a list of pairs of choices that go with a
        payload but not with each other.
    """
    fitting = {payload: _fitting(payload) for payload in PAYLOADS}
    lines = [f"| axis | choice | {' | '.join(f'`{payload}`' for payload in PAYLOADS)} |", "|---" * (len(PAYLOADS) + 2) + "|"]
    for axis, members in _axes().items():
        for name in members:
            cells = ("yes" if name in fitting[payload][axis] else "" for payload in PAYLOADS)
            lines.append(f"| {axis} | `{name}` | {' | '.join(cells)} |")
    clashes: dict[str, list[str]] = {}
    for payload in PAYLOADS:
        for pair in _clashes(payload, fitting[payload]):
            clashes.setdefault(" and ".join(f"{axis} `{name}`" for axis, name in pair.items()), []).append(f"`{payload}`")
    together = [f"- {pair} do not go together (payload {', '.join(payloads)})." for pair, payloads in clashes.items()]
    return "\n".join([*lines, "", *together])


def _axes() -> dict[str, Mapping[str, Any]]:
    return {"gate": GATES, "codec": CODECS, "rule": {**RULES, **COMBINERS}, "schedule": SCHEDULES, "broadcast": CODECS}


def _fitting(payload: str) -> dict[str, list[str]]:
    """The choices on each other axis that a payload goes with."""
    rules = [name for name in _axes()["rule"] if _works(payload, {"rule": name})]
    return {
        axis: rules if axis == "rule" else [name for name in members if _works(payload, {"rule": rules[0], axis: name})]
        for axis, members in _axes().items()
    }


def _clashes(payload: str, fitting: Mapping[str, list[str]]) -> Iterator[dict[str, str]]:
    """Pairs of choices that both go with a payload, but not with each other."""
    for one, other in itertools.combinations(fitting, 2):
        for first, second in itertools.product(fitting[one], fitting[other]):
            pair = {one: first, other: second}
            if not _works(payload, {"rule": fitting["rule"][0], **pair}):
                yield pair


def _works(payload: str, choices: Mapping[str, str]) -> bool:
    chosen: dict[str, Any] = {**DEFAULTS, **choices}
    if chosen["schedule"] == "interval":
        chosen["schedule"] = 2
    try:
        Scheme(payload=payload, **chosen)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    print(compatibility_table())
