"""The rest of a report: how much is finished, cautions, failures, and how it was made."""

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rl_agg.study.analysis.results import Results
from rl_agg.study.spec.parsing import dumped
from rl_agg.study.spec.study import decisive
from rl_agg.study.terminal import counted

LONGEST_TRACEBACK = 6000  # characters; the end matters
MOST_TRACEBACKS = 40


@dataclass(frozen=True)
class Failure:
    """Cells that failed for the same reason.

    :param reason: The traceback's last line.
    :param traceback: That of the first of them, without its beginning where it is long.
    """

    reason: str
    cells: list[str]
    traceback: str


def facts(results: Results) -> list[str]:
    """The size of the study, how much of it is finished, how many runs failed, and when that was."""
    finished, failed, total = len(results.records), len(results.failures), len(results.study.cells)
    study = results.study
    sizes = {"system": len(study.systems), "environment": len(study.environments), "seed": len(study.seed_list)}
    return [
        *(counted(size, name) for name, size in sizes.items()),
        counted(total, "run") if finished == total else f"{finished} of {counted(total, 'run')} finished",
        *([f"{failed} failed"] if failed else []),
        f"written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    ]


def settings(results: Results) -> dict[str, str]:
    """By system: what the baseline is, and in which settings each other one differs from it."""
    systems, baseline = results.study.systems, results.study.baseline
    flat = {name: _flat(decisive(system)) for name, system in systems.items()}
    own = flat.pop(baseline)
    varied = {key for other in flat.values() for key in own.keys() | other.keys() if own.get(key) != other.get(key)}
    # A setting that none varies is no difference, but whoever reads must know the algorithm
    said = {baseline: _in_words({key: value for key, value in own.items() if key == "system" or key in varied})}
    for name, other in flat.items():
        changed = {key: value for key, value in other.items() if value != own.get(key)}
        unset = [key for key in own if key not in other]
        parts = [_in_words(changed), *(f"{key} not set" for key in unset)]
        said[name] = ", ".join(filter(None, parts)) or f"the settings of {baseline}"
    return said


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """A mapping's leaves, by the keys on the way; arguments of the constructor are called as it calls them."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {
        name: leaf
        for key, inner in value.items()
        for name, leaf in _flat(inner, key if path in ("", "settings") else f"{path}.{key}").items()
    }


def _in_words(values: dict[str, Any]) -> str:
    return ", ".join(str(value) if key == "system" else f"{key} {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def notes(results: Results) -> list[str]:
    """Cautions about the numbers."""
    cautions = []
    versions = {json.dumps(record.metadata["versions"], sort_keys=True) for record in results.records}
    if len(versions) > 1:
        cautions.append("Runs were made with different versions of the software; see below.")
    for runs in (runs for systems in results.runs.values() for runs in systems.values()):
        infinite = runs.num_infinite
        without = int(np.isnan(runs.mean_returns).sum()) - infinite
        for count, what in ((without, "finished no episode"), (infinite, "have no finite return")):
            if count:
                cautions.append(
                    f"{count} of {len(runs.seeds)} runs of {runs.system} on {runs.environment} {what}; the numbers leave "
                    "them out."
                )
    warned = Counter(warning for record in results.records for warning in set(record.metadata["warnings"]))
    return cautions + [f"{count} of {len(results.records)} runs warned: {text}" for text, count in warned.most_common()]


def failures(results: Results) -> list[Failure]:
    """Failed cells by reason, the most frequent first."""
    grouped: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for cell, text in results.failures:
        grouped[(text.strip().splitlines() or ["no message"])[-1]].append((str(cell), text))
    return [
        Failure(reason, [cell for cell, _ in cells], _shortened(cells[0][1]) if number < MOST_TRACEBACKS else "")
        for number, (reason, cells) in enumerate(sorted(grouped.items(), key=lambda item: -len(item[1])))
    ]


def origins(results: Results) -> list[str]:
    """Software, host and time, each combination once."""
    counts: Counter[str] = Counter()
    for record in results.records:
        origin = record.metadata
        versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
        commit = f", commit {origin['commit']}" if origin["commit"] else ""
        counts[f"{versions}{commit}; {origin['platform']}, host {origin['host']}"] += 1
    hours = sum(record.updates["wall_time"].iloc[-1] for record in results.records) / 3600
    return [f"{counted(count, 'run')}: {text}" for text, count in counts.items()] + [
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
