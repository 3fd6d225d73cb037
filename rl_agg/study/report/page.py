"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import gzip
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources

from plotly.offline import get_plotlyjs

from rl_agg.statistics import Estimate
from rl_agg.study.analysis.results import Results
from rl_agg.study.report.charts import AXES, PROFILE_LABEL, Chart, Profile, drawn_first, in_order_of_colours
from rl_agg.study.report.page_data import data_of
from rl_agg.study.report.story import MOST_TRACEBACKS, failures, notes, origins, spec, subtitle
from rl_agg.study.report.tables import (
    IN_WORDS,
    Lines,
    comparison_tables,
    cost_tables,
    explanations,
    tables_of,
)
from rl_agg.study.report.verdict import verdicts
from rl_agg.study.spec.study import ALL_ENVIRONMENTS


def page(results: Results, charts: Sequence[Chart], overall: Profile | None) -> str:
    """Fill in the template.

    :param charts: See :func:`~rl_agg.study.report.charts.charts_of`.
    :param overall: See :func:`~rl_agg.study.report.charts.overall_profile`.
    """
    systems = in_order_of_colours(results)
    parts = {
        "TITLE": escape(results.study.name),
        "SUBTITLE": escape(subtitle(results)),
        "STYLE": _resource("report.css"),
        "VERDICT": "".join(
            f"<p><strong>{escape(each.headline)}</strong> {escape(each.detail)}</p>" for each in verdicts(results)
        ),
        "CONTROLS": _controls(charts, systems, drawn_first(results)) if charts else "",
        "RESULTS": _results(results, charts, overall),
        "NOTES": _notes(results),
        "DETAILS": _details(results),
        "DATA": data_of(systems, charts, overall),
        # A third of its size; the browser unpacks it
        "PLOTLY": base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
        "SCRIPT": _resource("report.js"),
    }
    # In one go, so that a name which looks like a marker stays a name
    return re.sub("@([A-Z]+)@", lambda found: parts[found[1]], _resource("report.html"))


def _resource(name: str) -> str:
    return resources.files("rl_agg.study.report").joinpath(name).read_text(encoding="utf-8")


def _controls(charts: Sequence[Chart], systems: Sequence[str], shown: Sequence[str]) -> str:
    known = [axis for axis in AXES if any(each.by_axis[axis] for chart in charts for each in chart.measures)]
    axes = "".join(
        f'<label><input type="radio" name="axis" value="{axis}"{" checked" * (axis == "updates")}>{AXES[axis][1]}</label>'
        for axis in known
    )
    boxes = "".join(
        f'<label><input type="checkbox" name="system" value="{number}"{" checked" * (name in shown)}>'
        f'<svg class="key" viewBox="0 0 24 6" aria-hidden="true"><line x1="0" x2="24" y1="3" y2="3" class="c{number % 8} '
        f'd{number // 8 % 4}"/></svg><span>{escape(name)}</span></label>'
        for number, name in enumerate(systems)
    )
    return (
        f'<div class="controls"><fieldset class="axis"><legend>Horizontal axis</legend>{axes}</fieldset>'
        f'<fieldset class="systems"><legend>Systems</legend>{boxes}'
        '<span class="all"><button type="button" data-all="1">All</button> '
        '<button type="button" data-all="">None</button></span></fieldset></div>'
    )


def _results(results: Results, charts: Sequence[Chart], overall: Profile | None) -> str:
    tables, differences, costs = tables_of(results), comparison_tables(results), cost_tables(results)
    blocks = []
    if overall is not None:
        intervals = {each.system: each.iqm for each in results.overall}
        blocks.append(
            f"<section><h2>{ALL_ENVIRONMENTS}</h2>{_table(ALL_ENVIRONMENTS, tables[ALL_ENVIRONMENTS], results, intervals)}"
            f"{_figure('overall', 'Performance profiles of all environments', f'{PROFILE_LABEL} a scaled return')}"
            "</section>"
        )
    rows = results.rows_by_environment
    for number, chart in enumerate(charts):
        name = chart.environment
        intervals = {row.system: row.mean_return for row in rows[name]}
        parts = [
            f"<h2>{escape(name)}</h2>",
            _table(f"Ranking on {name}", tables[name], results, intervals),
        ]
        for at, each in enumerate(chart.measures):
            caption = f"{each.label}, mean over seeds, with the 95 % interval of the mean"
            parts.append(_figure(f"curves-{number}-{at}", f"{each.label} on {name}", caption))
        parts.append('<div class="pair">')
        if chart.frontier:
            label = f"Return against bytes on {name}"
            parts.append(_figure(f"frontier-{number}", label, "Return over training against bytes sent"))
        if chart.profile.by_system:
            label = f"Performance profiles on {name}"
            parts.append(_figure(f"profile-{number}", label, f"{PROFILE_LABEL} a return"))
        parts.append("</div>")
        if name in differences:
            parts.append(f"<h3>Difference in R̄ from {escape(results.study.baseline)}</h3>")
            parts.append(_table(f"Differences on {name}", differences[name], results))
        parts.append(f"<h3>What a run took</h3>{_table(f'Costs on {name}', costs[name], results)}")
        blocks.append(f"<section>{''.join(parts)}</section>")
    if not blocks:
        return ""
    meanings = "".join(f"<li>{escape(line)}</li>" for line in explanations(results))
    return f'{"".join(blocks)}<section><h2>What the numbers mean</h2><ul class="soft">{meanings}</ul></section>'


def _figure(name: str, label: str, caption: str) -> str:
    return (
        f'<figure class="card"><figcaption>{escape(caption)}</figcaption>'
        f'<div class="chart" id="{name}" role="img" aria-label="{escape(label)}; the tables give the same in numbers"></div>'
        '<p class="soft absent" hidden></p></figure>'
    )


def _table(label: str, lines: Lines, results: Results, intervals: dict[str, Estimate] | None = None) -> str:
    """A table that scrolls by itself; with intervals, also a column that draws them."""
    headings, *body = lines
    drawn = _Scale(intervals.values()) if intervals and len(body) > 1 else None
    head = [f'<th scope="col">{escape(heading)}</th>' for heading in headings]
    if drawn:
        head.insert(1, '<th scope="col"><span class="unseen">Interval, drawn</span></th>')
    rows = []
    for line in body:
        cells = [f'<th scope="row">{escape(line[0])}</th>', *map(_cell, line[1:])]
        if drawn and intervals:
            cells.insert(1, drawn.cell(intervals[line[0]]))
        rows.append(f"<tr{' class=baseline' * (line[0] == results.study.baseline)}>{''.join(cells)}</tr>")
    words = " words" * (headings[-1] == IN_WORDS)
    return (
        f'<div class="card scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="numbers{words}">'
        f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    value, bracket, interval = text.partition(" [")
    return f"<td>{escape(value)}<small>{escape('[' + interval)}</small></td>" if bracket else f"<td>{escape(text)}</td>"


class _Scale:
    """Positions of numbers between the least and the greatest of a column."""

    def __init__(self, estimates: Iterable[Estimate]) -> None:
        ends = [end for each in estimates for end in (each.low, each.value, each.high) if not math.isnan(end)]
        self._low, self._width = (min(ends), (max(ends) - min(ends)) or 1.0) if ends else (0.0, 1.0)

    def cell(self, estimate: Estimate) -> str:
        if math.isnan(estimate.value):
            return "<td></td>"
        low, high = (estimate.value if math.isnan(end) else end for end in (estimate.low, estimate.high))
        at = [f"{2 + 96 * (value - self._low) / self._width:.1f}" for value in (low, high, estimate.value)]
        return (
            '<td><svg class="interval" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
            f'<line x1="{at[0]}" x2="{at[1]}" y1="6" y2="6"/><line class="value" x1="{at[2]}" x2="{at[2]}" y1="1" y2="11"/>'
            "</svg></td>"
        )


def _notes(results: Results) -> str:
    cautions = "".join(f"<li>{escape(note)}</li>" for note in notes(results))
    parts = [f'<section><h2>Notes</h2><div class="verdict warning"><ul>{cautions}</ul></div></section>'] if cautions else []
    if results.failures:
        blocks = []
        for failure in failures(results):
            cells = "".join(f"<li>{escape(cell)}</li>" for cell in failure.cells)
            trace = f"<pre tabindex=0>{escape(failure.traceback)}</pre>" if failure.traceback else ""
            many = f"{len(failure.cells)} cells" if len(failure.cells) > 1 else failure.cells[0]
            blocks.append(
                f"<details><summary>Failed: {escape(many)}: {escape(failure.reason)}</summary>"
                f"<ul>{cells}</ul>{trace}</details>"
            )
        limit = (
            f"The first {MOST_TRACEBACKS} reasons come with a traceback; all are in the study's folder."
            if len(blocks) > MOST_TRACEBACKS
            else ""
        )
        parts.append(f'<section><h2>Failures</h2><div class="verdict warning">{"".join(blocks)}<p>{limit}</p></div></section>')
    return "".join(parts)


def _details(results: Results) -> str:
    made = "".join(f"<li>{escape(line)}</li>" for line in origins(results))
    return (
        f"<section><h2>How it was made</h2><ul>{made}</ul>"
        f"<details><summary>The study</summary><pre tabindex=0>{escape(spec(results))}</pre></details></section>"
    )
