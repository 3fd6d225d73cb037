"""The report as one HTML page that needs nothing else."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from rl_agg.statistics import Estimate
from rl_agg.study.analysis.results import Results
from rl_agg.study.analysis.wording import number
from rl_agg.study.report.charts import AXES, PROFILE_LABEL, Chart, Profile, drawn_first, in_order_of_colours
from rl_agg.study.report.page_data import data_of
from rl_agg.study.report.story import MOST_TRACEBACKS, facts, failures, notes, origins, settings, spec
from rl_agg.study.report.style import DARK, DASHES, LIGHT, OUTCOMES, style_of
from rl_agg.study.report.tables import IN_WORDS, comparison_tables, cost_tables, explanations, overview, tables_of
from rl_agg.study.report.verdict import verdicts
from rl_agg.study.spec.study import ALL_ENVIRONMENTS

LINE_WIDTH = 2.2
"""CSS pixels."""
GLYPHS = {"better": "▲", "worse": "▼", "not established": "○", "failed": "✕"}
"""Of an outcome, which a colour alone would not tell everybody."""


def page(results: Results, charts: Sequence[Chart], overall: Profile | None, reload_seconds: int | None = None) -> str:
    """Fill in ``report.html``, which escapes all names and texts.

    :param charts: See :func:`~rl_agg.study.report.charts.charts_of`.
    :param overall: See :func:`~rl_agg.study.report.charts.overall_profile`.
    :param reload_seconds: After which an open page loads itself again; ``None``: never.
    """
    systems, tables = in_order_of_colours(results), tables_of(results)
    drawn = {name: {row.system: row.mean_return for row in rows} for name, rows in results.rows_by_environment.items()}
    drawn[ALL_ENVIRONMENTS] = {each.system: each.iqm for each in results.overall}
    recorded = {axis for chart in charts for measure in chart.measures for axis, curves in measure.by_axis.items() if curves}
    template = Environment(
        loader=PackageLoader("rl_agg.study", "report"),
        autoescape=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    ).get_template("report.html")
    return template.render(
        results=results,
        charts=charts,
        tables=tables,
        differences=comparison_tables(results),
        costs=cost_tables(results),
        scales={name: _scale(estimates) for name, estimates in drawn.items()},
        systems=systems,
        numbers={name: at for at, name in enumerate(systems)},
        drawn_first=drawn_first(results),
        anchors=_anchors(results.study.environments),
        overview=overview(results) if len(results.study.environments) > 1 else {},
        glyphs=GLYPHS,
        axes={axis: label for axis, (_, label) in AXES.items() if axis in recorded},
        everywhere=ALL_ENVIRONMENTS,
        in_words=IN_WORDS,
        profile_label=PROFILE_LABEL,
        most_tracebacks=MOST_TRACEBACKS,
        reload_seconds=reload_seconds,
        facts=facts(results),
        verdicts=verdicts(results),
        settings=settings(results),
        explanations=explanations(results),
        notes=notes(results),
        failures=failures(results),
        origins=origins(results),
        spec=spec(results),
        style_of=style_of,
        colors=[("light", _variables(LIGHT, 0)), ("dark", _variables(DARK, 1))],
        num_colors=len(LIGHT),
        dashes=[" ".join(f"{LINE_WIDTH * length:.1f}" for length in lengths) or "none" for lengths in DASHES],
        style=_resource("report.css"),
        scripts=[_resource("drawing.js"), _resource("report.js")],
        data=data_of(systems, results.study.baseline, charts, overall),
    )


def _variables(palette: Sequence[str], ground: int) -> str:
    """The colours as CSS."""
    outcomes = ((name.split()[0], pair[ground]) for name, pair in OUTCOMES.items())
    return " ".join(f"--{name}: {color};" for name, color in [*((f"c{i}", c) for i, c in enumerate(palette)), *outcomes])


def _anchors(names: Iterable[str]) -> dict[str, str]:
    """An id for each name's section, for links."""
    anchors: dict[str, str] = {}
    for name in names:
        anchor = "on-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        while anchor in anchors.values():  # names that differ only in what links cannot contain
            anchor += "-"
        anchors[name] = anchor
    return anchors


def _scale(estimates: Mapping[str, Estimate]) -> dict[str, object] | None:
    """Where intervals are drawn, in percent of a column's width, and what its ends are; of one system alone nothing is."""
    ends = [end for each in estimates.values() for end in (each.low, each.value, each.high) if not math.isnan(end)]
    if len(estimates) < 2 or not ends:
        return None
    least, width = min(ends), (max(ends) - min(ends)) or 1.0
    positions = {}
    for name, each in estimates.items():
        if not math.isnan(each.value):
            shown = [each.value if math.isnan(end) else end for end in (each.low, each.value, each.high)]
            positions[name] = [f"{3 + 94 * (end - least) / width:.1f}" for end in shown]
    return {"positions": positions, "ends": [number(min(ends)), number(max(ends))]}


def _resource(name: str) -> str:
    return resources.files("rl_agg.study.report").joinpath(name).read_text(encoding="utf-8")
