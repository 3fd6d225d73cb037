"""The report as one HTML page that needs nothing else."""

import base64
import gzip
import math
from collections.abc import Mapping, Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from rl_agg.statistics import Estimate
from rl_agg.study.analysis.results import Results
from rl_agg.study.report.charts import AXES, PROFILE_LABEL, Chart, Profile, drawn_first, in_order_of_colours
from rl_agg.study.report.page_data import data_of
from rl_agg.study.report.story import MOST_TRACEBACKS, failures, notes, origins, spec, subtitle
from rl_agg.study.report.tables import IN_WORDS, comparison_tables, cost_tables, explanations, tables_of
from rl_agg.study.report.verdict import verdicts
from rl_agg.study.spec.study import ALL_ENVIRONMENTS


def page(results: Results, charts: Sequence[Chart], overall: Profile | None) -> str:
    """Fill in ``report.html``, which escapes all names and texts.

    :param charts: See :func:`~rl_agg.study.report.charts.charts_of`.
    :param overall: See :func:`~rl_agg.study.report.charts.overall_profile`.
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
        positions={name: _positions(estimates) for name, estimates in drawn.items()},
        systems=systems,
        drawn_first=drawn_first(results),
        axes={axis: label for axis, (_, label) in AXES.items() if axis in recorded},
        everywhere=ALL_ENVIRONMENTS,
        in_words=IN_WORDS,
        profile_label=PROFILE_LABEL,
        most_tracebacks=MOST_TRACEBACKS,
        subtitle=subtitle(results),
        verdicts=verdicts(results),
        explanations=explanations(results),
        notes=notes(results),
        failures=failures(results),
        origins=origins(results),
        spec=spec(results),
        style=_resource("report.css"),
        script=_resource("report.js"),
        data=data_of(systems, charts, overall),
        # A third of its size; the browser unpacks it
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode(),
    )


def _positions(estimates: Mapping[str, Estimate]) -> dict[str, tuple[str, ...] | None]:
    """By system, where its interval's low end, its value and the high end are drawn; empty where there is but one system."""
    if len(estimates) < 2:
        return {}
    ends = [end for each in estimates.values() for end in (each.low, each.value, each.high) if not math.isnan(end)]
    least, width = (min(ends), (max(ends) - min(ends)) or 1.0) if ends else (0.0, 1.0)
    positions: dict[str, tuple[str, ...] | None] = {}
    for name, each in estimates.items():
        shown = [each.value if math.isnan(end) else end for end in (each.low, each.value, each.high)]
        known = not math.isnan(each.value)
        positions[name] = tuple(f"{2 + 96 * (end - least) / width:.1f}" for end in shown) if known else None
    return positions


def _resource(name: str) -> str:
    return resources.files("rl_agg.study.report").joinpath(name).read_text(encoding="utf-8")
