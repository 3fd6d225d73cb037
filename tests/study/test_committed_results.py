"""The tables of the docs have the figures of the committed records."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "benchmarks" / "results" / "studies"
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/replication.md", "docs/qmix.md", "docs/unequal.md")
}

TABLES = {
    "cartpole": ("docs/replication.md", {"end", "updates"}),
    "cartpole_scale": ("docs/replication.md", {"end", "updates"}),
    "cartpole_asynchronous": ("docs/replication.md", {"end", "seconds", "env steps"}),
    "lunar_lander": ("docs/replication.md", {"end", "updates"}),
    "lunar_lander_asynchronous": ("docs/replication.md", {"end", "seconds", "env steps"}),
    "lunar_lander_softmax": ("docs/replication.md", {"end", "updates"}),
    "lunar_lander_medium": ("docs/replication.md", {"end", "updates"}),
    "lunar_lander_large": ("docs/replication.md", {"end", "updates"}),
    "locomotion": ("docs/replication.md", {"end", "updates"}),
    "humanoid_standup": ("docs/replication.md", {"end", "updates"}),
    "grids_5_agents": ("docs/replication.md", set()),
    "grids_30_agents": ("docs/replication.md", set()),
    "pps_lbf": ("docs/replication.md", {"updates"}),
    "pps_2s3z": ("docs/qmix.md", {"updates"}),
    "broken_sensors": ("docs/unequal.md", {"updates"}),
}
"""On which page a study's table is, and what it contains apart from mean returns: end returns, differences at equal what."""


class Figure(NamedTuple):
    what: str
    environment: str
    system: str
    value: float
    low: float
    high: float


def figures(study: str, extra: set[str]) -> list[Figure]:
    """Mean returns, and the extra figures."""
    rows, pairs = (pd.read_csv(STUDIES / study / f"{name}.csv") for name in ("report", "comparisons"))
    pairs = pairs[pairs.basis.isin(extra)]
    tables = [(rows, "mean_return"), *([(rows, "end_return")] if "end" in extra else []), (pairs, "difference")]
    return [
        Figure(name, *numbers)
        for table, name in tables
        for numbers in table[["environment", "system", name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
    ]


def is_on(page: str, figure: Figure, among: list[Figure]) -> bool:
    """Whether ``value [low, high]`` is there, rounded to as many digits each, after its system's and its environment's name.

    Percent of a baseline may be between value and interval. A name is a figure's if no other of the study's comes between.
    """
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", PAGES[page]).replace("\N{MINUS SIGN}", "-")
    names = [{name: plain(name) for name in {getattr(other, kind) for other in among}} for kind in ("environment", "system")]
    for digits in range(4):
        mean, least, most = (re.escape(f"{number:.{digits}f}") for number in figure[3:])
        for found in re.finditer(rf"(?<![\d.-]){mean}(?: \(\d+ %\))? \[{least}, {most}\]", text):
            before = text[: found.start()]
            if [last_named(before, labels) for labels in names] == [figure.environment, figure.system]:
                return True
    return False


def plain(name: str) -> str:
    """A pattern for what pages call it: rl_agg/SimpleGrid-v0 is Simple Grid."""
    words = re.findall("[A-Z][a-z]+", name.split("/")[-1]) if "-v" in name else [name]
    return r"(?<![\w-])" + " ?".join(map(re.escape, words)) + r"(?![\w-])"


def last_named(text: str, labels: dict[str, str]) -> str | None:
    """Which name comes last; of one alone nothing need be said."""
    if len(labels) == 1:
        return next(iter(labels))
    ends = {name: max((found.end() for found in re.finditer(label, text)), default=-1) for name, label in labels.items()}
    return max(ends, key=ends.__getitem__) if max(ends.values()) > 0 else None


@pytest.mark.parametrize("study", TABLES)
def test_figures_of_the_docs_are_those_of_the_records(study: str) -> None:
    page, extra = TABLES[study]
    found = figures(study, extra)
    assert len(found) >= 3
    assert [figure for figure in found if not is_on(page, figure, found)] == []


@pytest.mark.parametrize(
    ("study", "environment", "systems"),
    [
        ("cartpole", "CartPole-v1", ("R-Weighted", "L-Weighted")),
        ("lunar_lander", "LunarLanderContinuous-v3", ("R-Weighted", "L-Weighted")),
        ("broken_sensors", "LunarLanderContinuous-v3", ("Multi-Krum", "L-Weighted")),
    ],
)
def test_claims_of_the_readme_are_those_of_the_records(study: str, environment: str, systems: tuple[str, ...]) -> None:
    found = figures(study, {"updates"})
    claims = [figure for figure in found if figure[:2] == ("difference", environment) and figure.system in systems]
    assert len(claims) == len(systems)
    assert [claim for claim in claims if not is_on("README.md", claim, found)] == []
