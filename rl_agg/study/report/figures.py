"""The charts as PNG files, for papers and pages that cannot run scripts."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from rl_agg.study.analysis.store import write_atomically
from rl_agg.study.report.charts import AXES, FRONTIER_LABELS, PROFILE_LABEL, Chart, Curves, Profile
from rl_agg.study.spec.study import ALL_ENVIRONMENTS

COLORS = ("#2563c9", "#d9730d", "#14866d", "#8b45c7", "#c8324f", "#0e8fb0", "#8a6a1f", "#6b7280")
DASHES = ("solid", "dashed", "dotted", "dashdot")
WIDTH, HEIGHT, DPI = 5.2, 3.6, 160  # inches of one panel, dots per inch
LEGEND = 1.8
LONGEST_NAME = 120  # of a file, without what is added
LONGEST_TITLE = 60  # of a panel
T = TypeVar("T")


def write_figures(charts: Sequence[Chart], overall: Profile | None, systems: Sequence[str], directory: Path) -> list[Path]:
    """Draw each environment's curves, and its return against bytes where systems differ in them; and all profiles.

    :param systems: Those to draw, see :func:`~rl_agg.study.report.charts.drawn_first`.
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
        write_atomically(files[-1], drawn.getvalue())

    for chart in charts:
        for curves in chart.measures:
            save(_curves(chart, curves, systems), chart.environment, curves.ending)
        if _differ_in_bytes(chart):
            save(_frontier(chart, systems), chart.environment, "_bytes")
    save(_profiles(profiles, systems), "profiles")
    return files


def _of(by_system: Mapping[str, T], names: Sequence[str]) -> list[tuple[str, T]]:
    return [(name, value) for name, value in by_system.items() if name in names]


def _curves(chart: Chart, curves: Curves, systems: Sequence[str]) -> Figure:
    axes = ["steps", *(["bytes"] if _differ_in_bytes(chart) else [])]
    figure = Figure(figsize=(WIDTH * len(axes) + LEGEND, HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        for name, curve in _of(curves.by_axis[axis], systems):
            style = _style(name, systems)
            panel.plot(curve.x, curve.mean, linewidth=1.6, label=_literal(name), **style)
            panel.fill_between(
                curve.x, curve.low, curve.high, where=~np.isnan(curve.low), color=style["color"], alpha=0.12, linewidth=0
            )
        if curves.threshold is not None:
            panel.axhline(curves.threshold, color="#62666f", linestyle=(0, (1, 3)), linewidth=1)
        panel.set_xlabel(AXES[axis][1])
    panels[0].set_ylabel(curves.label)
    return _finished(figure, panels, chart.environment)


def _frontier(chart: Chart, systems: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH + LEGEND, HEIGHT), layout="constrained")
    panel = figure.subplots()
    for name, (sent, estimate) in _of(chart.frontier, systems):
        color = _style(name, systems)["color"]
        ends = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        bars = None if np.isnan(ends).any() else np.maximum(ends, 0)
        panel.errorbar([sent], [estimate.value], yerr=bars, fmt="o", color=color, label=_literal(name), capsize=3)
    best = [chart.frontier[name] for name in chart.cheapest if name in systems]
    edge = [sent for sent, _ in best], [estimate.value for _, estimate in best]
    panel.plot(*edge, color="#62666f", linestyle="dotted", drawstyle="steps-post", linewidth=1, zorder=0)
    if chart.is_frontier_logarithmic:
        panel.set_xscale("log")
    panel.set_xlabel(FRONTIER_LABELS[0])
    panel.set_ylabel(FRONTIER_LABELS[1])
    return _finished(figure, [panel], chart.environment)


def _profiles(profiles: Sequence[tuple[str, Profile]], systems: Sequence[str]) -> Figure:
    columns = min(3, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = Figure(figsize=(WIDTH * columns + LEGEND, HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, (title, profile) in zip(panels, profiles, strict=False):
        for name, (share, low, high) in _of(profile.by_system, systems):
            style = _style(name, systems)
            panel.plot(profile.thresholds, share, linewidth=1.6, label=_literal(name), **style)
            panel.fill_between(profile.thresholds, low, high, color=style["color"], alpha=0.1, linewidth=0)
        panel.set_title(_title(title), loc="left", fontsize="medium")
        panel.set_xlabel(profile.label)
        panel.set_ylabel(PROFILE_LABEL)
    for panel in panels[len(profiles) :]:
        panel.set_visible(False)
    return _finished(figure, panels[: len(profiles)])


def _finished(figure: Figure, panels: Iterable[Any], title: str | None = None) -> Figure:
    for panel in panels:
        panel.grid(color="#ececee")
        panel.spines[["top", "right"]].set_visible(False)
    if title is not None:
        next(iter(panels)).set_title(_title(title), loc="left", fontsize="medium")
    handles = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _style(name: str, systems: Sequence[str]) -> dict[str, str]:
    number = systems.index(name)
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number // len(COLORS) % len(DASHES)]}


def _title(text: str) -> str:
    """An environment's name, shortened where it is wider than its panel."""
    return _literal(text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…")


def _literal(text: str) -> str:
    """A name that Matplotlib reads neither as mathematics nor as one to leave out of the legend."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _differ_in_bytes(chart: Chart) -> bool:
    return len({sent for sent, _ in chart.frontier.values()}) > 1
