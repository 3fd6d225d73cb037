"""The papers' tables and interval estimates as text: for the terminal, for Markdown, for a spreadsheet."""

import dataclasses
from collections.abc import Sequence

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl_agg.statistics import Estimate
from rl_agg.study.analysis.comparisons import Comparison
from rl_agg.study.analysis.costs import Cost
from rl_agg.study.analysis.results import Overall, Results, Row
from rl_agg.study.analysis.wording import UNKNOWN, in_words, number, size
from rl_agg.study.spec.study import ALL_ENVIRONMENTS, Study

HEADINGS = (
    "System", "Seeds", "R̄", "Δ R̄", "R̄_end", "Threshold step", "Variance of R̄", "IQM of R̄", "Optimality gap", "P(better)",
)  # fmt: skip
OVERALL_HEADINGS = ("System", "P(better)", "IQM of scaled R̄", "Optimality gap")
IN_WORDS = "In words"
BASELINE, FINISHED = "baseline", "finished"
COST_HEADINGS = (
    "System", "Env steps", "Seconds", "Messages", "Bytes sent", "μ_frequency", "μ_size", "μ_reward", "Win rate",
)  # fmt: skip

Lines = list[tuple[str, ...]]


def cells_of(row: Row, study: Study, pair: Sequence[Comparison] | None) -> tuple[str, ...]:
    """A row as text, under :data:`HEADINGS`.

    :param pair: How its system compares with the baseline, on each basis; ``None`` where that is not known.
    """
    total = len(study.seed_list)
    return (
        row.system,
        str(row.num_seeds) if row.num_seeds == total else f"{row.num_seeds} of {total}",
        in_words(row.mean_return),
        in_words(pair[0].difference) if pair else BASELINE if row.system == study.baseline else UNKNOWN,
        in_words(row.end_return),
        _threshold_in_words(row),
        number(row.variance),
        in_words(row.iqm),
        in_words(row.optimality_gap, 2),
        in_words(row.improvement, 2),
    )


def _threshold_in_words(row: Row) -> str:
    if row.seeds_at_threshold is None:
        return UNKNOWN
    step = f"> {row.num_updates}" if row.threshold_step is None else str(row.threshold_step)
    return f"{step} ({row.seeds_at_threshold}/{row.num_seeds})"


def overall_cells(overall: Overall, results: Results) -> tuple[str, ...]:
    """A system over all environments as text, under :data:`OVERALL_HEADINGS`."""
    return (
        overall.system,
        BASELINE if overall.system == results.study.baseline else in_words(overall.improvement, 2),
        in_words(overall.iqm, 2),
        in_words(overall.optimality_gap, 2),
    )


def tables_of(results: Results) -> dict[str, Lines]:
    """Title and lines, headings first: one ranking for each environment, and one over all where there are several.

    A system without a finished run comes last, with the reason in place of its numbers.
    """
    tables: dict[str, Lines] = {}
    for environment, rows in results.rows_by_environment.items():
        standings = {name: results.standing(environment, name) for name in results.study.systems}
        missing = [(name, standing) for name, standing in standings.items() if standing != FINISHED]
        empty = [(name, "0", standing, *[""] * (len(HEADINGS) - 3)) for name, standing in missing]
        pairs = results.differences(environment)
        tables[environment] = [HEADINGS, *(cells_of(row, results.study, pairs.get(row.system)) for row in rows), *empty]
    if results.overall:
        tables[ALL_ENVIRONMENTS] = [OVERALL_HEADINGS, *(overall_cells(each, results) for each in results.overall)]
    return tables


def overview(results: Results) -> dict[str, list[tuple[str, str]]]:
    """By system, its outcome against the baseline on each environment, or why there is none; and its difference in R̄."""
    strip: dict[str, list[tuple[str, str]]] = {name: [] for name in results.study.systems}
    for environment in results.study.environments:
        pairs = results.differences(environment)
        for name, entries in strip.items():
            standing, pair = results.standing(environment, name), pairs.get(name)
            if standing == FINISHED and name == results.study.baseline:
                entries.append((BASELINE, BASELINE))
            elif pair is None or standing != FINISHED:
                entries.append((standing, standing if standing != FINISHED else UNKNOWN))
            else:
                entries.append((outcome_of(pair), number(pair[0].difference.value, sign="+")))
    return strip


def outcome_of(pair: Sequence[Comparison]) -> str:
    """``better`` or ``worse`` if that is established on every basis, else ``not established``."""
    outcomes = {each.outcome for each in pair}
    return outcomes.pop() if len(outcomes) == 1 else "not established"


def comparison_tables(results: Results) -> dict[str, Lines]:
    """By environment: each system's difference in R̄ from the baseline, and whether it is established."""
    tables: dict[str, Lines] = {}
    for environment in results.rows_by_environment:
        lines: Lines = [("System", *(f"At equal {basis}" for basis in results.bases(environment)), IN_WORDS)]
        for name, pair in results.differences(environment).items():
            outcomes = {comparison.outcome for comparison in pair}
            split = "; ".join(f"{each.outcome} at equal {each.basis}" for each in pair)
            outcome = outcomes.pop() if len(outcomes) == 1 else split
            lines.append((name, *(in_words(comparison.difference) for comparison in pair), outcome))
        if len(lines) > 1:
            tables[environment] = lines
    return tables


def cost_tables(results: Results) -> dict[str, Lines]:
    """By environment: the average cost of a run, without columns that no system recorded."""
    tables: dict[str, Lines] = {}
    for environment in results.rows_by_environment:
        lines = [COST_HEADINGS, *(_cost_cells(cost) for cost in results.costs if cost.environment == environment)]
        known = [i for i in range(len(COST_HEADINGS)) if any(line[i] != UNKNOWN for line in lines[1:])]
        tables[environment] = [tuple(line[i] for i in known) for line in lines]
    return tables


def _cost_cells(cost: Cost) -> tuple[str, ...]:
    return (
        cost.system,
        number(cost.env_steps, 0),
        number(cost.wall_time, 1),
        number(cost.messages, 0),
        size(cost.bytes),
        in_words(cost.mu_frequency, 3),
        in_words(cost.mu_size, 0),
        in_words(cost.mu_reward),
        in_words(cost.win_rate, 2),
    )


COLUMNS = (tuple(range(len(HEADINGS))), (0, 2, 3, 4, 5), (0, 2, 3, 5), (0, 2, 3), (0, 2))
"""Of :data:`HEADINGS`, those that a terminal shows: the first choice that fits its width."""
NAME_WIDTH = 12
"""Characters of a system's name that stay on one line."""


def terminal_tables(results: Results, width: int) -> list[Table]:
    """The rankings for rich, an interval under its number.

    :param width: Of the terminal, in characters; a narrow one gets the more important columns only.
    """
    tables, unlimited = [], Console(width=10_000)
    for title, (headings, *lines) in tables_of(results).items():
        longest = max(cell_len(line[0]) for line in lines)
        foldable = max(0, longest - NAME_WIDTH)
        for shown in COLUMNS if headings == HEADINGS else [range(len(headings))]:
            table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
            table.add_column(headings[0], overflow="fold", min_width=longest - foldable)
            for i in shown[1:]:
                table.add_column(headings[i].replace(" ", "\n", 1), no_wrap=True, overflow="ellipsis")
            for line in lines:
                cells = (escape(line[i].replace(" [", "\n[").replace(" (", "\n(") if i else line[i]) for i in shown)
                table.add_row(*cells, style="bold" if line[0] == results.study.baseline else None)
            if unlimited.measure(table).maximum - foldable <= width:
                break
        tables.append(table)
    return tables


def markdown_tables(results: Results) -> str:
    """All tables in Markdown, grouped by environment."""
    differences, costs = comparison_tables(results), cost_tables(results)
    blocks = []
    for title, lines in tables_of(results).items():
        blocks.append(f"### {_literal(title)}\n\n{_markdown(lines)}")
        if title in differences:
            blocks.append(f"Difference in R̄ from {_literal(results.study.baseline)}:\n\n{_markdown(differences[title])}")
        if title in costs:
            blocks.append(f"What a run took:\n\n{_markdown(costs[title])}")
    return "\n\n".join(blocks)


def _markdown(lines: Lines) -> str:
    headings, *body = lines
    rule = ("---", *["---:"] * (len(headings) - 1))
    return "\n".join("| " + " | ".join(_literal(cell) for cell in line) + " |" for line in [headings, rule, *body])


def _literal(text: str) -> str:
    """A name that neither leaves its table cell nor starts a tag; a browser may show this Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def explanations(results: Results) -> list[str]:
    """What the headings mean."""
    share, baseline = f"{100 * results.study.end_share:g}", results.study.baseline
    return [
        "R̄ is the mean raw episodic return over all updates of a run, R̄_end over the last "
        f"{share} % of them; both are averaged over seeds, with 95 % bootstrap intervals in brackets.",
        f"Δ R̄ is the mean difference in R̄ from {baseline}, paired by seed, at equal updates, or at equal seconds where these "
        "are the budget. The verdict goes by it, over all environments by P(better).",
        "Threshold step is the update at which the running score s = 0.9 s + 0.1 r of the mean curve reaches the "
        "environment's threshold; in parentheses, how many runs reach it by themselves.",
        "IQM is the interquartile mean over runs. P(better) is the probability that a run has a higher R̄ than one of "
        f"{baseline}.",
        "Optimality gap is how far runs fall short on average, as a share of the way from the environment's worst run to its "
        "threshold, or to its best run where it has no threshold; 0 is best. The scale's ends are taken as given.",
        "At equal updates runs are compared up to the shortest one's end; at equal env steps or seconds, where all have "
        "returns, on straight lines between updates. Differences are paired by seed.",
        "μ_frequency is messages, and μ_size canonical bytes, per agent and update; μ_reward is the agents' mean discounted "
        "return.",
        "An interval from fewer than six seeds is shown, but cannot establish a difference. One in twenty intervals is "
        "expected to miss. The leader is picked by the same runs that measure its lead, so the more systems, the more of that "
        "lead is luck.",
    ]


def frame_of(results: Results) -> pd.DataFrame:
    """All rows and costs with unrounded numbers, an interval's ends in columns of their own."""
    flat = [_flat(row) | _flat(cost) for row, cost in zip(results.rows, results.costs, strict=True)]
    whole = ["threshold_step", "seeds_at_threshold"]
    frame = pd.DataFrame(flat, columns=list(dict.fromkeys([*_columns(Row), *_columns(Cost)])))
    return frame.astype(dict.fromkeys(whole, "Int64"))  # so that a gap leaves them whole


def comparison_frame(results: Results) -> pd.DataFrame:
    """Each system against the baseline on each environment and basis, with unrounded numbers."""
    return pd.DataFrame(
        [
            {"environment": environment, **_flat(each), "outcome": each.outcome}
            for environment in results.rows_by_environment
            for pair in results.differences(environment).values()
            for each in pair
        ],
        columns=["environment", *_columns(Comparison), "outcome"],
    )


def _columns(kind: type[Row | Cost | Comparison]) -> list[str]:
    """The names of :func:`_flat`."""
    columns = []
    for field in dataclasses.fields(kind):
        ends = (f"{field.name}_low", f"{field.name}_high") if field.type is Estimate else ()
        columns += [field.name, *ends]
    return columns


def _flat(item: Row | Cost | Comparison) -> dict[str, object]:
    entry: dict[str, object] = {}
    for name in (field.name for field in dataclasses.fields(item)):
        value = getattr(item, name)
        if isinstance(value, Estimate):
            entry |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            entry[name] = value
    return entry
