"""Draw the pictures of README and docs from committed records: python docs/pictures.py [NAME ...]"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType

import matplotlib
import matplotlib.colors
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rl_agg.study.analysis.results import Results, results_of
from rl_agg.study.analysis.store import Store
from rl_agg.study.report.charts import Curve, charts_of

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
OUT = Path(__file__).parent / "_static" / "pictures"
COLORS = ("#1f83c4", "#d9640f", "#009e73", "#cc79a7", "#d99400", "#56a4d4")  # Okabe and Ito, darker where light on white
INK = {"": "#757b85", "-light": "#24292f", "-dark": "#d5d9df"}
"""Of text, by the ending of the file's name: one that is legible on white and on black, and one for each."""

BETTER_OR_WORSE = matplotlib.colors.LinearSegmentedColormap.from_list("", [COLORS[1], "#f6f7f9", COLORS[0]])

matplotlib.rcParams |= {
    "font.size": 10,
    "savefig.transparent": True,
    "svg.hashsalt": "rl-agg",  # the same records, the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@cache
def study(name: str) -> Results:
    return results_of(Store(RESULTS / "studies" / name))


def curves(
    axes: Axes,
    study_name: str,
    environment: str,
    systems: Sequence[str],
    axis: str = "steps",
    banded: Sequence[str] = (),
    labels: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Mean over seeds with the name, or its label, at each line's end; 95 % intervals of those in ``banded``."""
    chart = next(chart for chart in charts_of(study(study_name)) if chart.environment == environment)
    measure = chart.measures[0]
    ends = []
    for color, name in zip(COLORS, systems, strict=False):
        curve: Curve = measure.by_axis[axis][name]
        axes.plot(curve.x, curve.mean, color=color, linewidth=2)
        if name in banded:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)
        ends.append((curve.mean[~np.isnan(curve.mean)][-1], curve.x[~np.isnan(curve.mean)][-1], labels.get(name, name), color))
    at_line_ends(axes, ends)
    axes.set_xlabel({"steps": "environment steps", "seconds": "seconds", "bytes": "bytes sent"}[axis])
    axes.set_ylabel(measure.label.lower())
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))


def at_line_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names (height, position, name, colour) right of their lines, pushed apart where they would overlap.

    Where lines end at different places, each has its name at its own end, or names would seem to be other lines'.
    """
    low, high = axes.get_ylim()
    room = (high - low) * 0.075
    places = sorted(ends)
    heights = [place[0] for place in places]
    for _ in range(100):
        for first in range(len(heights) - 1):
            overlap = room - (heights[first + 1] - heights[first])
            if overlap > 0:
                heights[first] -= overlap / 2
                heights[first + 1] += overlap / 2
    right = max(place[1] for place in places)
    apart = axes.get_xscale() == "linear" and min(place[1] for place in places) < 0.9 * right
    for height, (end, at, name, color) in zip(heights, places, strict=True):
        place = {
            "xy": (at, end) if apart else (right, height),
            "xytext": (6, 0),
            "textcoords": "offset points",
            "va": "center",
        }
        axes.annotate(name, **place, color=color, weight="bold", annotation_clip=False)


def forest(axes: Axes, study_name: str, environment: str) -> None:
    """Paired differences in mean return from the baseline, and whether they are established."""
    results = study(study_name)
    baseline = results.study.baseline
    names = [row.system for row in results.rows_by_environment[environment] if row.system != baseline][::-1]
    for height, name in enumerate(names):
        first = results.comparisons(environment, name, baseline)[0]
        color = {"better": COLORS[0], "worse": COLORS[1]}.get(first.outcome, "#9aa0a8")
        axes.plot([first.difference.low, first.difference.high], [height, height], color=color, linewidth=3, alpha=0.55)
        axes.plot([first.difference.value], [height], "o", color=color, markersize=7)
    axes.axvline(0, color="#9aa0a8", linewidth=1, linestyle="dotted")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("difference in mean return from plain averaging, 95 % interval")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def hero(figure: Figure) -> None:
    axes = figure.subplots()
    best, mean, worst = systems = ["Multi-Krum", "Baseline-Avg", "L-Weighted"]
    labels = {best: "multi-Krum", mean: "mean", worst: "L-Weighted"}
    curves(axes, "broken_sensors", "LunarLanderContinuous-v3", systems, banded=[best, mean], labels=labels)
    gain = study("broken_sensors").comparisons("LunarLanderContinuous-v3", best, mean)[0].difference
    sentence = (
        f"multi-Krum earns {gain.value:.0f} [{gain.low:.0f}, {gain.high:.0f}] more than the mean\n6 seeds, 95 % intervals"
    )
    axes.text(0.98, 0.06, sentence, transform=axes.transAxes, ha="right", va="bottom", fontsize=9.5)
    axes.set_title("LunarLander: two of eight agents have broken sensors", loc="left", fontsize=11)
    axes.set_ylabel("mean return of the other six")


def unequal(figure: Figure) -> None:
    forest(figure.subplots(), "broken_sensors", "LunarLanderContinuous-v3")


def off_policy(figure: Figure) -> None:
    systems = ["Trimmed mean", "Krum", "R-Weighted", "Baseline-Avg"]
    labels = {"Trimmed mean": "trimmed mean", "Baseline-Avg": "mean"}
    curves(
        figure.subplots(), "broken_sensors_sac", "Pendulum-v1", systems, banded=["Trimmed mean", "Baseline-Avg"], labels=labels
    )


def selection(figure: Figure) -> None:
    """Kinds of inequality by rules: the difference in mean return from the mean, as a share of the environment's range."""
    table = pd.read_csv(RESULTS / "unequal" / "selection.csv").query("measure == 'mean'")
    names = {"kind": list(dict.fromkeys(table.kind)), "rule": list(dict.fromkeys(table.rule))}
    marks = {"win": "better", "loss": "worse", "tie": "as good", "open": "open"}
    environments = list(dict.fromkeys(table.environment))
    panels = figure.subplots(len(environments), squeeze=False)[:, 0]
    for axes, environment in zip(panels, environments, strict=True):
        shares = np.full((len(names["kind"]), len(names["rule"])), np.nan)
        for row in table[table.environment == environment].itertuples():
            place = names["kind"].index(row.kind), names["rule"].index(row.rule)
            shares[place] = row.share
            number = f"{round(100 * row.share):+d} %".replace("-", "\N{MINUS SIGN}")
            text = f"{number}\n{marks.get(row.outcome, row.outcome)}"
            ink = "white" if abs(row.share) > 0.18 else "#24292f"
            axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8, color=ink)
        axes.imshow(shares, cmap=BETTER_OR_WORSE, vmin=-0.3, vmax=0.3, aspect="auto")
        axes.set_xticks(range(len(names["rule"])), names["rule"])
        axes.set_yticks(range(len(names["kind"])), [name.replace("_", " ") for name in names["kind"]])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(environment, loc="left")


def sb3(figure: Figure) -> None:
    systems = ["L-Weighted", "R-Weighted", "Baseline-Sum", "Baseline-Avg"]
    curves(figure.subplots(), "cartpole", "CartPole-v1", systems, banded=["L-Weighted", "Baseline-Sum"])


def local_models(figure: Figure) -> None:
    systems = ["FedAvg", "ActorAvg", "ActorSum", "Baseline-Avg"]
    curves(figure.subplots(), "lunar_lander", "LunarLanderContinuous-v3", systems, banded=["FedAvg", "Baseline-Avg"])


def combiners(figure: Figure) -> None:
    systems = ["Multi-Krum", "Geometric median", "Median", "Krum", "Trimmed mean", "Baseline-Avg"]
    curves(figure.subplots(), "attackers", "CartPole-v1", systems)


def asynchronous(figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for axes, name, environment in (
        (left, "cartpole_asynchronous", "CartPole-v1"),
        (right, "lunar_lander_asynchronous", "LunarLanderContinuous-v3"),
    ):
        curves(axes, name, environment, ["A3C", "IMPALA", "Baseline-Sum"], axis="seconds")
        axes.set_title(environment, loc="left")
    right.set_ylabel("")


def communication(figure: Figure) -> None:
    everyone = "Everyone speaks"  # codespell:ignore speaks
    labels = {everyone: "every agent sends", "LAG": "LAG, ξ 0.1", "LAG, xi 0.01": "ξ 0.01"}
    curves(
        figure.subplots(), "lag", "CartPole-v1, 20 epochs", list(labels), axis="bytes", banded=[everyone, "LAG"], labels=labels
    )


def codecs(figure: Figure) -> None:
    """Mean return over bytes, with 95 % intervals; what is established to be worse than no codec in grey."""
    axes, folder = figure.subplots(), RESULTS / "studies" / "compression"
    worse = pd.read_csv(folder / "comparisons.csv").query("outcome == 'worse'").system.unique()
    axes.set_xscale("log")
    for row in pd.read_csv(folder / "report.csv").itertuples():
        color = "#9aa0a8" if row.system in worse else COLORS[0]
        axes.plot([row.bytes] * 2, [row.mean_return_low, row.mean_return_high], color=color, linewidth=3, alpha=0.55)
        axes.plot([row.bytes], [row.mean_return], "o", color=color, markersize=7)
        if row.system != "LAG, top_k 1 %":  # the same as without LAG
            place = {"textcoords": "offset points", "xytext": (7, 0), "va": "center"}
            axes.annotate(row.system, (row.bytes, row.mean_return), **place, color=color, weight="bold")
    axes.margins(x=0.12)
    axes.set_xlabel("bytes sent")
    axes.set_ylabel("mean episodic return")
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))


def tabular(figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for axes, environment in ((left, "rl_agg/SimpleGrid-v0"), (right, "rl_agg/FrozenLake5x5-v0")):
        axes.set_xscale("log")
        curves(axes, "grids_5_agents", environment, ["DQL", "EBCDQL", "DAVIA", "ES"], axis="bytes")
        axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axes.set_title(environment, loc="left")
    right.set_ylabel("")


def replay(figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    systems = ["DQN, all transitions", "DQN, all transitions, errors first", "EBCDQL"]
    labels = dict(zip(systems, ["DQN", "DQN, errors first", "EBCDQL"], strict=True))
    right.set_xscale("log")
    for axes, axis in ((left, "steps"), (right, "bytes")):
        curves(axes, "deep_ebcdql_cartpole", "CartPole-v1", systems, axis=axis, labels=labels)
    right.set_ylabel("")


def es(figure: Figure) -> None:
    axes = figure.subplots()
    table = pd.read_csv(RESULTS / "es_cartpole_curves.csv").query("activation == 'relu'")
    ends = []
    for color, name in zip(COLORS, ["ES n50 raw", "ESPC m25 k5", "deviation m25", "deviation m5"], strict=False):
        own = table[table.system == name]
        axes.plot(own.messages.cumsum(), own.mean_return, color=color, linewidth=2)
        ends.append((own.mean_return.iloc[-1], own.messages.sum(), name, color))
    at_line_ends(axes, ends)
    axes.set_xlabel("messages sent")
    axes.set_ylabel("mean episodic return")


def team_values(figure: Figure) -> None:
    """The true values of the nine joint actions, and those that three systems act by."""
    table = pd.read_csv(RESULTS / "team_values.csv").query("values == 'acted by'")
    joint = [f"{first}, {second}" for first in "ABC" for second in "ABC"]
    truth = np.array([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]])
    shown = {"the game": truth}
    for system in ("VDN", "QMIX", "QTRAN, 0.1", "OW-QMIX, 0.1"):
        shown[system] = table[table.system == system][joint].median().to_numpy().reshape(3, 3)
    for axes, (title, values) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        axes.imshow(values, cmap="RdBu", vmin=-12, vmax=12)
        axes.set_title(title, fontsize=10)
        axes.set_xticks(range(3), "ABC")
        axes.set_yticks(range(3), "ABC")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(3, 3):
            value = values[row, column]
            ink = "white" if abs(value) > 6.5 else "#24292f"
            axes.text(column, row, f"{value:.0f}".replace("-0", "0"), ha="center", va="center", color=ink)


def qmix(figure: Figure) -> None:
    """Win rates of QMIXConfig as it comes, a line for each run."""
    table = pd.read_csv(RESULTS / "qmix_learning.csv").query("change == 'default' and win_rate == win_rate")
    tasks = table.groupby("task")
    for axes, color, (task, of_task) in zip(figure.subplots(1, len(tasks), sharey=True), COLORS, tasks, strict=False):
        for _, run in of_task.groupby("seed"):
            axes.plot(run.env_steps / 1000, run.win_rate, color=color, linewidth=1.5)
        axes.axhline(0.8, color="#9aa0a8", linestyle="dotted", linewidth=1)
        axes.set_title(task, loc="left")
        axes.set_xlabel("thousand environment steps")
        axes.set_ylim(0, 1)
    figure.axes[0].set_ylabel("battles won")


def speed(figure: Figure) -> None:
    table = pd.read_csv(RESULTS / "sb3.csv").query("agents == 8")
    systems = ["mean", "r_weighted", "l_weighted"]
    for axes, (environment, own) in zip(figure.subplots(1, 2, sharey=True), table.groupby("environment"), strict=True):
        for number, (color, name) in enumerate(zip(COLORS, systems, strict=False)):
            rows = own[own.system == name].sort_values("batch_size")
            places = np.arange(len(rows)) + (number - 1) * 0.26
            axes.bar(places, rows.learn_over_stock, 0.22, color=color, label=name)
        axes.axhline(1, color="#9aa0a8", linestyle="dotted", linewidth=1)
        axes.set_xticks(range(len(rows)), [f"{size:.0f}" for size in rows.batch_size])
        axes.set_xlabel("batch size")
        axes.set_title(environment, loc="left")
    figure.axes[0].set_ylabel("CPU time of learn() / stock PPO's")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)


def smax(figure: Figure) -> None:
    """Medians; QMIXConfig's rate over JaxMARL's with its range."""
    left, right = figure.subplots(1, 2)
    table = pd.read_csv(RESULTS / "smax.csv")
    for number, (color, name) in enumerate(zip(COLORS, ["QMIXConfig", "JaxMARL"], strict=False)):
        left.bar(np.arange(len(table)) + (number - 0.5) * 0.36, table[f"{name} steps/s"] / 1000, 0.32, color=color, label=name)
    left.set_ylabel("thousand env steps per second")
    left.set_ylim(0, 1.35 * table["JaxMARL steps/s"].max() / 1000)
    left.legend(frameon=False, loc="upper left")
    reach = [table.ratio - table["min"], table["max"] - table.ratio]
    right.errorbar(range(len(table)), table.ratio, yerr=reach, fmt="o", color=COLORS[0], capsize=3)
    right.axhline(1, color="#9aa0a8", linestyle="dotted", linewidth=1)
    right.set_ylabel("QMIXConfig's / JaxMARL's")
    right.set_ylim(0, 1.4)
    right.set_xlim(-0.5, len(table) - 0.5)
    for axes in (left, right):
        axes.set_xticks(range(len(table)), table.copies)
        axes.set_xlabel("copies of 3m")


def rllib(figure: Figure) -> None:
    axes = figure.subplots()
    table = pd.read_csv(RESULTS / "rllib.csv").query("figure == 'end_to_end'")
    systems = ["stock again", "mean", "r_weighted", "l_weighted"]
    for number, (color, runners) in enumerate(zip(COLORS, (0, 2), strict=False)):
        own = table[table.env_runners == runners].set_index("system").loc[systems]
        places = np.arange(len(systems)) + (number - 0.5) * 0.36
        reach = [own.rate_over_stock - own.rate_over_stock_min, own.rate_over_stock_max - own.rate_over_stock]
        label = f"{runners} env runners" if runners else "one process"
        axes.bar(places, own.rate_over_stock, 0.32, yerr=reach, color=color, ecolor="#9aa0a8", label=label)
    axes.axhline(1, color="#9aa0a8", linestyle="dotted", linewidth=1)
    axes.set_xticks(range(len(systems)), ["stock PPO, again", *systems[1:]])
    axes.set_ylabel("env steps per second / stock PPO's")
    axes.legend(frameon=False, loc="upper left")


PICTURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "hero": (hero, (6.4, 3.6)),
    "sb3": (sb3, (7.4, 3.4)),
    "rllib": (rllib, (7.4, 3.2)),
    "asynchronous": (asynchronous, (10.5, 3.4)),
    "combiners": (combiners, (7.4, 3.6)),
    "unequal": (unequal, (7.4, 3.6)),
    "selection": (selection, (8.8, 3.6)),
    "off_policy": (off_policy, (7.4, 3.2)),
    "local_models": (local_models, (7.4, 3.4)),
    "communication": (communication, (7.4, 3.2)),
    "codecs": (codecs, (7.4, 3.6)),
    "es": (es, (7.4, 3.4)),
    "tabular": (tabular, (10.5, 3.4)),
    "replay": (replay, (10.5, 3.4)),
    "team_values": (team_values, (10.5, 2.5)),
    "qmix": (qmix, (7.4, 3.2)),
    "smax": (smax, (8.4, 3.0)),
    "speed": (speed, (8.4, 3.2)),
}
IN_TWO_COLORS = ("hero",)
"""Drawn once for light and once for dark pages."""


def draw(name: str, out: Path = OUT) -> None:
    """Write a picture, as one file for both kinds of pages or as one for each."""
    content, size = PICTURES[name]
    for ending in ("-light", "-dark") if name in IN_TWO_COLORS else ("",):
        ink = INK[ending]
        with matplotlib.rc_context(
            {f"{part}.color": ink for part in ("text", "xtick", "ytick")}
            | {
                "axes.labelcolor": ink,
                "axes.edgecolor": ink,
                "axes.titlecolor": ink,
            }
        ):
            figure = Figure(figsize=size, layout="constrained")
            content(figure)
            figure.savefig(out / f"{name}{ending}.svg", metadata={"Date": None})


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for chosen in sys.argv[1:] or PICTURES:
        draw(chosen)
