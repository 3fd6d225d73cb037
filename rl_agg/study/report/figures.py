"""Figures as PNG files, for papers and pages that cannot run scripts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.figure import Figure

from rl_agg.study.report.charts import AXES, Chart, Curve, Profile

COLORS = ("#2563c9", "#d9730d", "#14866d", "#8b45c7", "#c8324f", "#0e8fb0", "#8a6a1f", "#6b7280")
DASHES = ("solid", "dashed", "dotted", "dashdot")
WIDTH, HEIGHT, DPI = 5.2, 3.6, 160  # inches of one panel, dots per inch
LEGEND = 1.8
LONGEST_NAME = 120  # of a file, without what is added
LONGEST_TITLE = 60  # of a panel
MANY_TIMES = 8  # further apart only a logarithm shows them all
T = TypeVar("T")


def write_figures(
    charts: Sequence[Chart], overall: Profile | None, systems: Sequence[str], drawn: Sequence[str], directory: Path
) -> list[Path]:
    """Draw each environment: its curves, of wins too if some were recorded, and return against bytes where systems differ in
    them; and all profiles.

    :param systems: All, as :func:`~rl_agg.study.report.charts.in_order_of_colours` has them.
    :param drawn: Those to draw.
    :param directory: Made where it does not exist.
    :return: The files.
    """
    if not charts:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    charts = [_only(chart, drawn) for chart in charts]
    if overall is not None:
        overall = Profile(overall.thresholds, _of(overall.by_system, drawn))

    def save(figure: Figure, name: str, kind: str = "") -> None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:LONGEST_NAME] + kind
        while directory / f"{stem}.png" in files:  # names that differ only in what files cannot be called, or late
            stem += "_"
        files.append(directory / f"{stem}.png")
        figure.savefig(files[-1], dpi=DPI)

    for chart in charts:
        save(_curves(chart, chart.curves, "Mean episodic return", systems, chart.threshold), chart.environment)
    for chart in charts:
        if any(chart.win_rates.values()):
            save(_curves(chart, chart.win_rates, "Share of episodes won", systems), chart.environment, "_wins")
    for chart in charts:
        if _differ_in_bytes(chart):
            save(_frontier(chart, systems), chart.environment, "_bytes")
    save(_profiles(charts, overall, systems), "profiles")
    return files


def _of(by_system: dict[str, T], names: Sequence[str]) -> dict[str, T]:
    return {name: told for name, told in by_system.items() if name in names}


def _only(chart: Chart, names: Sequence[str]) -> Chart:
    return dataclasses.replace(
        chart,
        curves={axis: _of(curves, names) for axis, curves in chart.curves.items()},
        win_rates={axis: _of(curves, names) for axis, curves in chart.win_rates.items()},
        frontier=_of(chart.frontier, names),
        cheapest=[name for name in chart.cheapest if name in names],
        profile=Profile(chart.profile.thresholds, _of(chart.profile.by_system, names)),
    )


def _curves(
    chart: Chart,
    curves: Mapping[str, Mapping[str, Curve]],
    label: str,
    systems: Sequence[str],
    threshold: float | None = None,
) -> Figure:
    axes = ["steps", *(["bytes"] if _differ_in_bytes(chart) else [])]
    figure = Figure(figsize=(WIDTH * len(axes) + LEGEND, HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, axes, strict=True):
        for name, curve in curves[axis].items():
            style = _style(name, systems)
            panel.plot(curve.x, curve.mean, linewidth=1.6, label=_literal(name), **style)
            panel.fill_between(
                curve.x, curve.low, curve.high, where=~np.isnan(curve.low), color=style["color"], alpha=0.12, linewidth=0
            )
        if threshold is not None:
            panel.axhline(threshold, color="#62666f", linestyle=(0, (1, 3)), linewidth=1)
        panel.set_xlabel(AXES[axis][1])
    panels[0].set_ylabel(label)
    return _finished(figure, panels, chart.environment)


def _frontier(chart: Chart, systems: Sequence[str]) -> Figure:
    figure = Figure(figsize=(WIDTH + LEGEND, HEIGHT), layout="constrained")
    panel = figure.subplots()
    for name, (sent, estimate) in chart.frontier.items():
        color = _style(name, systems)["color"]
        ends = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        bars = None if np.isnan(ends).any() else np.maximum(ends, 0)
        panel.errorbar([sent], [estimate.value], yerr=bars, fmt="o", color=color, label=_literal(name), capsize=3)
    best = [chart.frontier[name] for name in chart.cheapest]
    edge = [sent for sent, _ in best], [estimate.value for _, estimate in best]
    panel.plot(*edge, color="#62666f", linestyle="dotted", drawstyle="steps-post", linewidth=1, zorder=0)
    sent_by_all = [sent for sent, _ in chart.frontier.values()]
    if 0 < MANY_TIMES * min(sent_by_all) < max(sent_by_all):
        panel.set_xscale("log")
    panel.set_xlabel("Bytes sent by agents in a run")
    panel.set_ylabel("Mean return over training")
    return _finished(figure, [panel], chart.environment)


def _profiles(charts: Sequence[Chart], overall: Profile | None, systems: Sequence[str]) -> Figure:
    told = [("All environments", "Scaled return", overall)] if overall else []
    told += [(chart.environment, "Mean return over training", chart.profile) for chart in charts]
    columns = min(3, len(told))
    rows = -(-len(told) // columns)
    figure = Figure(figsize=(WIDTH * columns + LEGEND, HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for panel, (title, label, profile) in zip(panels, told, strict=False):
        for name, (share, low, high) in profile.by_system.items():
            style = _style(name, systems)
            panel.plot(profile.thresholds, share, linewidth=1.6, label=_literal(name), **style)
            panel.fill_between(profile.thresholds, low, high, color=style["color"], alpha=0.1, linewidth=0)
        panel.set_title(_title(title), loc="left", fontsize="medium")
        panel.set_xlabel(label)
        panel.set_ylabel("Share of runs above")
    for panel in panels[len(told) :]:
        panel.set_visible(False)
    return _finished(figure, panels[: len(told)])


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
    number = list(systems).index(name)
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number // len(COLORS) % len(DASHES)]}


def _title(text: str) -> str:
    """An environment's name, or as much of it as leaves room for its panel."""
    return _literal(text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…")


def _literal(text: str) -> str:
    """A name that Matplotlib takes for neither mathematics nor one to leave out of the legend."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def _differ_in_bytes(chart: Chart) -> bool:
    return len({sent for sent, _ in chart.frontier.values()}) > 1
