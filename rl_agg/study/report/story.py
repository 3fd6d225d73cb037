"""What a report says besides its numbers: how far the study is, what to beware of, what failed, how it was made."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from rl_agg.study.analysis.results import Results
from rl_agg.study.spec.parsing import dumped

LONGEST_TRACEBACK = 6000  # characters; what matters is at the end
MOST_TRACEBACKS = 40


@dataclass(frozen=True)
class Failure:
    """Cells that failed in the same way.

    :param reason: The traceback's last line.
    :param traceback: That of the first of them, without its beginning where it is long.
    """

    reason: str
    cells: list[str]
    traceback: str


def subtitle(results: Results) -> str:
    """How much there is, and how much of it is finished."""
    finished, total = len(results.records), len(results.study.cells)
    runs = f"{total} runs" if finished == total else f"{finished} of {total} runs finished so far"
    study = results.study
    sizes = {"system": len(study.systems), "environment": len(study.environments), "seed": len(study.seed_list)}
    counts = ", ".join(f"{size} {name}{'s' * (size > 1)}" for name, size in sizes.items())
    return f"{counts}: {runs}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."


def notes(results: Results) -> list[str]:
    """What a reader should know before believing the numbers."""
    told = []
    versions = {json.dumps(record.metadata["versions"], sort_keys=True) for record in results.records}
    if len(versions) > 1:
        told.append("Runs were made with different versions of the software; see below.")
    for runs in (runs for systems in results.runs.values() for runs in systems.values()):
        if silent := int(np.isnan(runs.mean_returns).sum()):
            told.append(
                f"{silent} of {len(runs.seeds)} runs of {runs.system} on {runs.environment} finished no episode: its returns "
                "are told without them."
            )
    warned = Counter(warning for record in results.records for warning in set(record.metadata["warnings"]))
    return told + [f"{count} of {len(results.records)} runs warned: {text}" for text, count in warned.most_common()]


def failures(results: Results) -> list[Failure]:
    """Failed cells, those of the same reason together, the most frequent first."""
    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cell, text in results.failures:
        grouped[(text.strip().splitlines() or ["no message"])[-1]].append((cell, text))
    return [
        Failure(reason, [cell for cell, _ in cells], _shortened(cells[0][1]) if number < MOST_TRACEBACKS else "")
        for number, (reason, cells) in enumerate(sorted(grouped.items(), key=lambda item: -len(item[1])))
    ]


def origins(results: Results) -> list[str]:
    """Software, host and time, each set of them once."""
    seen: Counter[str] = Counter()
    for record in results.records:
        made = record.metadata
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        commit = f", commit {made['commit']}" if made["commit"] else ""
        seen[f"{versions}{commit}; {made['platform']}, host {made['host']}"] += 1
    hours = sum(record.updates["wall_time"].iloc[-1] for record in results.records) / 3600
    return [f"{count} run{'s' * (count > 1)}: {text}" for text, count in seen.items()] + [
        f"Runs took {hours:.2f} hours, one after the other.",
        f"Study {results.study.key[:10]}.",
    ]


def spec(results: Results) -> str:
    """The resolved study in YAML."""
    return dumped(results.study.to_mapping())


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_TRACEBACK:
        return text
    return f"(its first {len(text) - LONGEST_TRACEBACK} characters are left out)\n{text[-LONGEST_TRACEBACK:]}"
