"""A study's report: Markdown and CSV to work with, and one self-contained page to read. Axes: U updates, S seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from plotly.offline import get_plotlyjs

from rl_agg import statistics
from rl_agg.statistics import Array
from rl_agg.study.figures import write_figures
from rl_agg.study.results import Results, Runs, results_of
from rl_agg.study.store import Store, write_atomically
from rl_agg.study.tables import explanations, frame_of, markdown_tables, tables_of
from rl_agg.study.verdict import verdicts

MAX_POINTS = 400
"""Points of a drawn curve: more than a screen can show only make the page heavy."""
AXES = {"update": "Updates", "env_steps": "Environment steps", "wall_time": "Seconds"}


def write_report(directory: Path) -> Results:
    """Write ``report.md``, ``report.csv``, ``report.html`` and ``figures/*.png`` into a study's folder.

    :param directory: As given to :func:`~rl_agg.study.engine.run_study`; cells may be missing.
    :return: What the report says.
    :raises StudyError: if the folder holds no study.
    """
    store = Store(directory)
    results = results_of(store)
    write_atomically(store.directory / "report.md", markdown(results).encode())
    write_atomically(store.directory / "report.csv", frame_of(results).to_csv(index=False).encode())
    write_atomically(store.directory / "report.html", page(results).encode())
    write_figures(results, store.directory / "figures")
    return results


def markdown(results: Results) -> str:
    """The report as Markdown."""
    notes = _notes(results)
    parts = [
        f"# {results.study.name}",
        _subtitle(results),
        "## Verdict\n\n" + "\n\n".join(f"**{each.headline}** {each.detail}".strip() for each in verdicts(results)),
        "## Results\n\n" + markdown_tables(results),
        "\n".join(f"- {line}" for line in explanations(results)),
        "## Notes\n\n" + "\n".join(f"- {note}" for note in notes) if notes else "",
        "## How it was made\n\n" + "\n".join(f"- {line}" for line in _origins(results)),
        f"```yaml\n{_spec(results)}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(results: Results) -> str:
    """The report as one HTML page that needs nothing else."""
    template = resources.files("rl_agg.study").joinpath("report.html").read_text(encoding="utf-8")
    charts = [_chart(results, environment) for environment in results.rows_by_environment]
    parts = {
        "TITLE": escape(results.study.name),
        "SUBTITLE": escape(_subtitle(results)),
        "VERDICT": _verdict_html(results),
        "CURVES": _curves_html(charts),
        "TABLES": _tables_html(results),
        "NOTES": _notes_html(results),
        "DETAILS": _details_html(results),
        # Inside a script only these could end it
        "DATA": json.dumps(charts, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028"),
        "PLOTLY": get_plotlyjs().replace("</script", "<\\/script"),
    }
    for marker, text in parts.items():
        before, _, after = template.partition(f"@{marker}@")
        template = before + text + after.replace(f"@{marker}@", text)
    return template


def _chart(results: Results, environment: str) -> dict[str, Any]:
    order = list(results.study.systems)
    systems = [{"name": name, "color": order.index(name), **_curve(runs)} for name, runs in results.runs[environment].items()]
    return {"title": environment, "threshold": results.study.environments[environment].threshold, "systems": systems}


def _curve(runs: Runs) -> dict[str, list[float | None]]:
    returns = _thinned(runs.curve("return"))
    low, high = statistics.curve_interval(returns)
    lines = {"mean": statistics.mean_curve(returns), "low": low, "high": high}
    axes = {axis: statistics.mean_curve(_thinned(runs.curve(axis))) for axis in AXES}
    return {name: _numbers(values) for name, values in (lines | axes).items()}


def _thinned(curves: Array) -> Array:
    """Average neighbouring updates until no more than :data:`MAX_POINTS` are left: ``[S, U]`` to ``[S, U']``."""
    if curves.shape[1] <= MAX_POINTS:
        return curves
    return np.stack([statistics.mean_curve(part.T) for part in np.array_split(curves, MAX_POINTS, axis=1)], axis=1)


def _numbers(values: Array) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.6g}") for value in values]


def _subtitle(results: Results) -> str:
    finished, total = len(results.records), len(results.study.cells)
    runs = f"{total} runs" if finished == total else f"{finished} of {total} runs finished so far"
    study = results.study
    sizes = {"system": len(study.systems), "environment": len(study.environments), "seed": len(study.seed_list)}
    counts = ", ".join(f"{size} {name}{'s' * (size > 1)}" for name, size in sizes.items())
    return f"{counts}: {runs}. Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."


def _verdict_html(results: Results) -> str:
    told = "".join(f"<p><strong>{escape(each.headline)}</strong> {escape(each.detail)}</p>" for each in verdicts(results))
    return f'<section class="verdict">{told}</section>'


def _curves_html(charts: list[dict[str, Any]]) -> str:
    if not charts:
        return ""
    choices = "".join(
        f'<label><input type="radio" name="axis" value="{axis}"{" checked" * (axis == "update")}>{label}</label>'
        for axis, label in AXES.items()
    )
    blocks = "".join(
        f'<h2>{escape(chart["title"])}</h2><div class="card"><div class="chart" id="chart{index}"></div></div>'
        for index, chart in enumerate(charts)
    )
    note = "Mean over seeds, with the 95 % bootstrap interval of the mean. Press a name to hide it."
    return (
        f'<div class="axis" role="radiogroup" aria-label="Horizontal axis">{choices}</div>{blocks}<p class="soft">{note}</p>'
    )


def _tables_html(results: Results) -> str:
    blocks = []
    for title, (headings, *lines) in tables_of(results).items():
        head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
        body = "".join(
            f"<tr{' class=baseline' * (line[0] == results.study.baseline)}>{''.join(map(_cell_html, line))}</tr>"
            for line in lines
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        blocks.append(f'<h2>{escape(title)}: numbers</h2><div class="card scroll">{table}</div>')
    told = "".join(f"<li>{escape(line)}</li>" for line in explanations(results))
    return f'{"".join(blocks)}<ul class="soft">{told}</ul>' if blocks else ""


def _cell_html(text: str) -> str:
    value, bracket, interval = text.partition(" [")
    return f"<td>{escape(value)}<small>{escape('[' + interval)}</small></td>" if bracket else f"<td>{escape(text)}</td>"


def _notes(results: Results) -> list[str]:
    """What a reader should know before believing the numbers."""
    notes = []
    versions = {json.dumps(record.metadata["versions"], sort_keys=True) for record in results.records}
    if len(versions) > 1:
        notes.append("Runs were made with different versions of the software; see below.")
    warned = Counter(warning for record in results.records for warning in set(record.metadata["warnings"]))
    notes += [f"{count} of {len(results.records)} runs warned: {text}" for text, count in warned.most_common()]
    return notes + [f"Failed: {cell}: {text.strip().splitlines()[-1]}" for cell, text in results.failures]


def _notes_html(results: Results) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(results))
    return f'<h2>Notes</h2><section class="verdict warning"><ul>{notes}</ul></section>' if notes else ""


def _details_html(results: Results) -> str:
    origins = "".join(f"<li>{escape(line)}</li>" for line in _origins(results))
    failures = "".join(
        f"<details><summary>Traceback: {escape(cell)}</summary><pre>{escape(text)}</pre></details>"
        for cell, text in results.failures
    )
    spec = f"<details><summary>The study</summary><pre>{escape(_spec(results))}</pre></details>"
    return f"<h2>How it was made</h2><ul>{origins}</ul>{failures}{spec}"


def _origins(results: Results) -> list[str]:
    """Software, host and time, each set of them once."""
    seen: Counter[str] = Counter()
    for record in results.records:
        made = record.metadata
        versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
        commit = f", commit {made['commit']}" if made["commit"] else ""
        seen[f"{versions}{commit}; {made['platform']}, host {made['host']}"] += 1
    hours = sum(record.updates["wall_time"].iloc[-1] for record in results.records) / 3600
    return [f"{count} runs: {text}" for text, count in seen.items()] + [
        f"Training took {hours:.2f} core hours.",
        f"Study {results.study.key[:10]}.",
    ]


def _spec(results: Results) -> str:
    return yaml.safe_dump(results.study.to_mapping(), sort_keys=False, allow_unicode=True)
