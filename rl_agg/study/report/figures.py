"""The charts as PNG files, for papers and pages that cannot run scripts; they look as those of the page do."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from PIL import Image

from rl_agg.study.analysis.store import write_atomically
from rl_agg.study.analysis.wording import LONGEST_LABEL, cut, in_words
from rl_agg.study.report.charts import AXES, FRONTIER_LABELS, PROFILE_LABEL, Chart, Curves, Profile
from rl_agg.study.report.style import DASHES, GRID, INK, LIGHT, OUTCOMES, SOFT, spread, style_of
from rl_agg.study.report.tables import outcome_of
from rl_agg.study.spec.study import ALL_ENVIRONMENTS

WIDTH, HEIGHT, DPI = 5.2, 3.6, 160  # inches of one panel, dots per inch
NAMES = 1.8
ROW = 0.3
LINE_WIDTH = 1.6
GAP = 0.053  # between names, of a panel's height
NEAR = 0.9  # the right side, of a panel's width
LONGEST_NAME = 120  # of a file, without what is added
LONGEST_TITLE = 60  # of a panel
T = TypeVar("T")


def write_figures(charts: Sequence[Chart], overall: Profile | None, systems: Sequence[str], directory: Path) -> list[Path]:
    """Draw each environment's curves, differences, and its return against bytes where systems differ in them; all profiles.

    :param systems: Those to draw, the baseline first; see :func:`~rl_agg.study.report.charts.drawn_first`.
    :param directory: Made where it does not exist.
    :return: The files.
    """
    if not charts:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    profiles = [(chart.environment, chart.profile) for chart in charts]
    if overall is not None:
        profiles.insert(0, (ALL_ENVIRONMENTS, overall))

    def save(figure: Figure, name: str, kind: str = "") -> None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST_NAME] + kind
        while directory / f"{stem}.png" in files:  # names that differ only in what files cannot be called, or late
            stem += "_"
        files.append(directory / f"{stem}.png")
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=DPI)
        write_atomically(files[-1], _in_few_colors(drawn))

    for chart in charts:
        for curves in chart.measures:
            save(_curves(chart, curves, systems), chart.environment, curves.ending)
        if any(name in systems for name in chart.differences):
            save(_differences(chart, systems), chart.environment, "_differences")
        if chart.differ_in_bytes:
            save(_frontier(chart, systems), chart.environment, "_bytes")
    save(_profiles(profiles, systems), "profiles")
    return files


def _in_few_colors(drawn: io.BytesIO) -> bytes:
    """The same picture in 256 colours, which takes a third of the bytes; studies are committed to repositories."""
    small = io.BytesIO()
    picture = Image.open(drawn).convert("RGB")
    picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True, dpi=(DPI, DPI))
    return small.getvalue()


def _of(by_system: Mapping[str, T], names: Sequence[str]) -> list[tuple[str, T]]:
    return [(name, value) for name, value in by_system.items() if name in names]


def _curves(chart: Chart, curves: Curves, systems: Sequence[str]) -> Figure:
    axes = ["steps", *(["bytes"] if chart.differ_in_bytes else [])]
    figure = Figure(figsize=(WIDTH * len(axes) + NAMES, HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        drawn = _of(curves.by_axis[axis], systems)
        for name, curve in drawn:
            style = _style(name, systems)
            panel.plot(curve.x, curve.mean, **style)
            if name in (systems[0], chart.systems[0]):  # more bands would hide each other
                known = ~np.isnan(curve.low)
                panel.fill_between(curve.x, curve.low, curve.high, where=known, color=style["color"], alpha=0.14, linewidth=0)
        if curves.threshold is not None:
            panel.axhline(curves.threshold, color=SOFT, linestyle=(0, (1, 3)), linewidth=1)
        panel.set_xlabel(AXES[axis][1])
        panel.xaxis.set_major_formatter(EngFormatter(unit="B" if axis == "bytes" else "", sep=" " if axis == "bytes" else ""))
    panels[0].set_ylabel(curves.label)
    _finish(panels, chart.environment)
    _name_ends(panels[-1], {name: (curve.x, curve.mean) for name, curve in drawn}, systems)
    return figure


def _differences(chart: Chart, systems: Sequence[str]) -> Figure:
    drawn = _of(chart.differences, systems)[::-1]
    figure = Figure(figsize=(WIDTH + NAMES, 1.1 + ROW * len(drawn)), layout="constrained")
    panel = figure.subplots()
    panel.axvline(0, color=INK, linewidth=1)
    right = panel.secondary_yaxis("right")
    for row, (_, pair) in enumerate(drawn):
        outcome = outcome_of(pair)
        color = OUTCOMES[outcome][0]
        for basis, each in enumerate(pair):
            number, y = each.difference, row + 0.12 - 0.24 * basis
            line = 1.8 - 0.9 * basis
            panel.plot([number.low, number.high], [y, y], color=color, linewidth=line)
            face = "white" if outcome == "not established" else color
            panel.plot([number.value], [y], "o", color=color, markerfacecolor=face, markersize=5.5 - 2.5 * basis)
    panel.set_yticks(range(len(drawn)), [_label(name) for name, _ in drawn])
    right.set_yticks(range(len(drawn)), [in_words(pair[0].difference) for _, pair in drawn])
    panel.set_ylim(-0.6, len(drawn) - 0.4)
    panel.set_xlabel(f"Difference in mean return from {_label(systems[0])}")
    _finish([panel], chart.environment)
    panel.grid(visible=False, axis="y")
    for axis in (panel, right):
        axis.tick_params(axis="y", length=0)
        axis.spines[["left", "right"]].set_visible(False)
    for label, (_, pair) in zip(right.get_yticklabels(), drawn, strict=True):
        label.set_color(OUTCOMES[outcome_of(pair)][0])
    return figure


def _frontier(chart: Chart, systems: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH + NAMES, HEIGHT), layout="constrained")
    panel = figure.subplots()
    for name, (sent, estimate) in _of(chart.frontier, systems):
        color = _style(name, systems)["color"]
        ends = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        bars = None if np.isnan(ends).any() else np.maximum(ends, 0)
        panel.errorbar([sent], [estimate.value], yerr=bars, fmt="o", color=color)
    best = [chart.frontier[name] for name in chart.cheapest if name in systems]
    edge = [sent for sent, _ in best], [estimate.value for _, estimate in best]
    panel.plot(*edge, color=SOFT, linestyle="dotted", drawstyle="steps-post", linewidth=1, zorder=0)
    if chart.is_frontier_logarithmic:
        panel.set_xscale("log")
    panel.xaxis.set_major_formatter(EngFormatter(unit="B"))
    panel.set_xlabel(FRONTIER_LABELS[0])
    panel.set_ylabel(FRONTIER_LABELS[1])
    _finish([panel], chart.environment)
    points = {name: ([sent], [estimate.value]) for name, (sent, estimate) in _of(chart.frontier, systems)}
    _name_ends(panel, points, systems)
    return figure


def _profiles(profiles: Sequence[tuple[str, Profile]], systems: Sequence[str]) -> Figure:
    columns = min(3, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = Figure(figsize=(WIDTH * columns + NAMES, HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, (title, profile) in zip(panels, profiles, strict=False):
        for name, (share, _, _) in _of(profile.by_system, systems):
            panel.plot(profile.thresholds, share, label=_literal(name), **_style(name, systems))
        panel.set_xlabel(profile.label)
        panel.set_ylabel(PROFILE_LABEL)
        _finish([panel], title)
    for panel in panels[len(profiles) :]:
        panel.set_visible(False)
    handles = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    named = {name: handles[label] for name in systems if (label := _literal(name)) in handles}
    figure.legend(named.values(), map(_label, named), loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _finish(panels: Sequence[Any], title: str) -> None:
    for panel in panels:
        panel.grid(color=GRID)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(GRID)
        panel.tick_params(colors=SOFT)
    panels[0].set_title(_title(title), loc="left", fontsize="medium")


def _name_ends(panel: Any, lines: Mapping[str, tuple[Any, Any]], systems: Sequence[str]) -> None:
    """Write each name at the end of its line to the right of a panel, or to the right of its point."""
    panel.autoscale_view()  # or the limits would be those of an empty panel
    to_panel = panel.transScale + panel.transLimits
    ends = {}
    for name, (x, y) in lines.items():
        known = np.flatnonzero(np.isfinite(np.asarray(x)) & np.isfinite(np.asarray(y)))
        if known.size:
            ends[name] = (x[known[-1]], y[known[-1]])
    places = [to_panel.transform(end) for end in ends.values()]
    heights = spread([float(np.clip(y, 0, 1)) for _, y in places], GAP, 0.0, 1.0)
    for (name, end), (x, _), height in zip(ends.items(), places, heights, strict=True):
        color = _style(name, systems)["color"]
        is_point = len(lines[name][0]) == 1
        # From where a line ends early it would cross the others
        arrow = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.6 * (is_point or x > NEAR)}
        arrow |= {"relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 3}
        panel.annotate(
            _label(name), end, (x + 0.02, height + 0.04) if is_point else (1.03, height), textcoords="axes fraction",
            va="center", color=color, fontsize=8.5, arrowprops=arrow, annotation_clip=False,
        )  # fmt: skip


def _style(name: str, systems: Sequence[str]) -> dict[str, Any]:
    color, dashes = style_of(systems.index(name))
    return {"color": LIGHT[color], "linestyle": (0, DASHES[dashes]) if DASHES[dashes] else "solid", "linewidth": LINE_WIDTH}


def _title(text: str) -> str:
    """An environment's name, shortened where it is wider than its panel."""
    return _literal(cut(text, LONGEST_TITLE))


def _label(name: str) -> str:
    """A system's name, shortened where it would leave no room for the panel."""
    return _literal(cut(name, LONGEST_LABEL))


def _literal(text: str) -> str:
    """A name that Matplotlib reads neither as mathematics nor as one to leave out of the legend."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped
