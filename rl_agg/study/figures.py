"""Curves as PNG files, for papers and pages that cannot run scripts. Axes: U updates, S seeds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rl_agg import statistics
from rl_agg.study.results import Results, Runs

COLORS = ("#2563c9", "#d9730d", "#14866d", "#8b45c7", "#c8324f", "#0e8fb0", "#8a6a1f", "#6b7280")
DASHES = ("solid", "dashed", "dotted", "dashdot")
MESSAGES = "agg/messages"
WIDTH, HEIGHT, DPI = 5.2, 3.6, 160  # inches of one panel, dots per inch


def write_figures(results: Results, directory: Path) -> list[Path]:
    """Draw each environment: the mean return over environment steps, and over messages where systems differ in them.

    :param directory: Made where it does not exist.
    :return: The files, one for each environment that has runs.
    """
    files = []
    for environment, systems in results.runs.items():
        if systems:
            directory.mkdir(parents=True, exist_ok=True)
            files.append(directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', environment)}.png")
            _draw(results, environment, list(systems.values())).savefig(files[-1], dpi=DPI)
    return files


def _draw(results: Results, environment: str, systems: list[Runs]) -> Figure:
    axes = {"env_steps": "Environment steps"}
    if _differ_in_messages(systems):
        axes[MESSAGES] = "Messages from all agents"
    figure = Figure(figsize=(WIDTH * len(axes) + 1.8, HEIGHT), layout="constrained")
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    threshold = results.study.environments[environment].threshold
    order = list(results.study.systems)
    for panel, (column, label) in zip(panels, axes.items(), strict=True):
        for runs in systems:
            _curve(panel, runs, column, order.index(runs.system))
        if threshold is not None:
            panel.axhline(threshold, color="#62666f", linestyle=(0, (1, 3)), linewidth=1)
        panel.set_xlabel(label)
        panel.grid(color="#ececee")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("Mean episodic return")
    panels[0].set_title(environment, loc="left", fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _curve(panel: Any, runs: Runs, column: str, number: int) -> None:
    if any(column not in record.updates for record in runs.records):
        return
    returns, x = runs.curve("return"), statistics.mean_curve(runs.curve(column))
    color, dash = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
    low, high = statistics.curve_interval(returns)
    panel.plot(x, statistics.mean_curve(returns), color=color, linestyle=dash, linewidth=1.6, label=runs.system)
    panel.fill_between(x, low, high, where=~np.isnan(low), color=color, alpha=0.12, linewidth=0)


def _differ_in_messages(systems: list[Runs]) -> bool:
    sent = [record.updates[MESSAGES].iloc[-1] for runs in systems for record in runs.records if MESSAGES in record.updates]
    return len(set(sent)) > 1
