"""The papers' tables and interval estimates as text: for the terminal, for Markdown, for a spreadsheet."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd
from rich import box
from rich.markup import escape
from rich.table import Table

from rl_agg.statistics import Estimate
from rl_agg.study.results import Overall, Results, Row

UNKNOWN = "n/a"
HEADINGS = ("System", "Seeds", "R̄", "%", "R̄_end", "%", "Threshold step", "Variance of R̄", "IQM of R̄", "P(better)")
OVERALL_HEADINGS = ("System", "IQM of scaled R̄", "P(better)")


def cells_of(row: Row) -> tuple[str, ...]:
    """A row as text, under :data:`HEADINGS`."""
    return (
        row.system,
        str(row.num_seeds),
        in_words(row.mean_return),
        number(row.mean_return_percent, 1),
        in_words(row.end_return),
        number(row.end_return_percent, 1),
        _threshold_in_words(row),
        number(row.variance),
        in_words(row.iqm),
        in_words(row.improvement, 2),
    )


def _threshold_in_words(row: Row) -> str:
    if row.seeds_at_threshold is None:
        return UNKNOWN
    step = f"> {row.num_updates}" if row.threshold_step is None else str(row.threshold_step)
    return f"{step} ({row.seeds_at_threshold}/{row.num_seeds} runs)"


def in_words(estimate: Estimate, decimals: int | None = None) -> str:
    """``value [low, high]``; without the brackets where the interval is not known."""
    value = number(estimate.value, decimals)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{number(estimate.low, decimals)}, {number(estimate.high, decimals)}]"


def number(value: float, decimals: int | None = None) -> str:
    """A number with as many decimals as asked for, else at least four digits; ``n/a`` for NaN."""
    if math.isnan(value):
        return UNKNOWN
    if decimals is None:
        decimals = 0 if abs(value) >= 10_000 else 1 if abs(value) >= 100 else 2
    text = f"{value:,.{decimals}f}"
    return text.replace(",", "\u202f").replace("-", "\u2212")


def overall_cells(overall: Overall) -> tuple[str, ...]:
    """What is said about a system over all environments as text, under :data:`OVERALL_HEADINGS`."""
    return overall.system, in_words(overall.iqm, 2), in_words(overall.improvement, 2)


def tables_of(results: Results) -> dict[str, list[tuple[str, ...]]]:
    """Title and lines, headings first: one table for each environment, and one over all where there are several."""
    tables = {environment: [HEADINGS, *map(cells_of, rows)] for environment, rows in results.rows_by_environment.items()}
    if results.overall:
        tables["All environments"] = [OVERALL_HEADINGS, *map(overall_cells, results.overall)]
    return tables


WIDE_ONLY = frozenset({"Seeds", "Variance of R̄", "IQM of R̄", "P(better)"})
NARROW_WIDTH = 120


def terminal_tables(results: Results, width: int) -> list[Table]:
    """The tables for rich, an interval under its number.

    :param width: Of the terminal, in characters; a narrow one gets the more important columns only.
    """
    tables = []
    for title, (headings, *lines) in tables_of(results).items():
        shown = [
            i for i, heading in enumerate(headings) if len(headings) < 5 or width >= NARROW_WIDTH or heading not in WIDE_ONLY
        ]
        table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i in shown:
            table.add_column(headings[i].replace(" ", "\n", 1), no_wrap=i > 0, overflow="ellipsis" if i else "fold")
        for line in lines:
            cells = (escape(line[i].replace(" [", "\n[").replace(" (", "\n(") if i else line[i]) for i in shown)
            table.add_row(*cells, style="bold" if line[0] == results.study.baseline else None)
        tables.append(table)
    return tables


def markdown_tables(results: Results) -> str:
    """The tables in Markdown."""
    blocks = []
    for title, (headings, *lines) in tables_of(results).items():
        rule = ["---", *["---:"] * (len(headings) - 1)]
        body = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [headings, rule, *lines]
        )
        blocks.append(f"### {title}\n\n{body}")
    return "\n\n".join(blocks)


def explanations(results: Results) -> list[str]:
    """What the headings mean, one sentence each."""
    share = f"{100 * results.study.end_share:g}"
    return [
        "R̄ is the mean raw episodic return over all updates of a run, R̄_end over the last "
        f"{share} % of them; both are averaged over seeds, with 95 % bootstrap intervals in brackets.",
        f"% is relative to {results.study.baseline}. Where most systems are negative, the most negative value is subtracted "
        "first; where few are, they count as 0 %.",
        "Threshold step is the update at which the running score s = 0.9 s + 0.1 r of the mean curve reaches the "
        "environment's threshold; in parentheses, how many runs reach it by themselves.",
        "IQM is the interquartile mean over runs. P(better) is the probability that a run has a higher R̄ than one of "
        f"{results.study.baseline}.",
        "An interval from fewer than six seeds is shown, but cannot establish a difference. The leader is picked by the same "
        "runs that measure its lead, so the more systems, the more of that lead is luck.",
    ]


def frame_of(results: Results) -> pd.DataFrame:
    """All rows with unrounded numbers, an interval's ends in columns of their own."""
    flat = []
    for row in results.rows:
        entry: dict[str, object] = {}
        for name in (field.name for field in dataclasses.fields(Row)):
            value = getattr(row, name)
            if isinstance(value, Estimate):
                entry |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                entry[name] = value
        flat.append(entry)
    whole = ["threshold_step", "seeds_at_threshold"]
    return pd.DataFrame(flat).astype(dict.fromkeys(whole, "Int64") if flat else {})  # so that a gap leaves them whole
