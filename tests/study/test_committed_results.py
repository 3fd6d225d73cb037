"""The tables of the docs have the figures of the committed records."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "benchmarks" / "results" / "studies"
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/replication.md", "docs/qmix.md")}

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
}
"""On which page a study's table is, and what it tells besides mean returns: end returns, differences at equal what."""


def figures(study: str, told: set[str]) -> list[tuple[str, float, float, float]]:
    """What each is, its value and its interval."""
    rows, pairs = (pd.read_csv(STUDIES / study / f"{name}.csv") for name in ("report", "comparisons"))
    means = zip(rows.environment, rows.system, rows.mean_return, rows.mean_return_low, rows.mean_return_high, strict=True)
    ends = zip(rows.environment, rows.system, rows.end_return, rows.end_return_low, rows.end_return_high, strict=True)
    pairs = pairs[pairs.basis.isin(told)]
    differences = zip(pairs.system, pairs.basis, pairs.difference, pairs.difference_low, pairs.difference_high, strict=True)
    found = [*means, *(ends if "end" in told else ()), *differences]
    return [(f"{one}, {other}", *numbers) for one, other, *numbers in found]


def is_told(page: str, value: float, low: float, high: float) -> bool:
    """Whether ``value [low, high]`` is there, rounded to as many digits each; percent of a baseline may be between them."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", PAGES[page]).replace("\N{MINUS SIGN}", "-")
    for digits in range(4):
        mean, least, most = (re.escape(f"{number:.{digits}f}") for number in (value, low, high))
        if re.search(rf"(?<![\d.-]){mean}(?: \(\d+ %\))? \[{least}, {most}\]", text):
            return True
    return False


@pytest.mark.parametrize("study", TABLES)
def test_figures_of_the_docs_are_those_of_the_records(study: str) -> None:
    page, told = TABLES[study]
    found = figures(study, told)
    assert len(found) >= 3
    assert [figure for figure in found if not is_told(page, *figure[1:])] == []


@pytest.mark.parametrize("study", ["cartpole", "lunar_lander"])
def test_claims_of_the_readme_are_those_of_the_records(study: str) -> None:
    claims = [figure for figure in figures(study, {"updates"}) if figure[0] in ("R-Weighted, updates", "L-Weighted, updates")]
    assert len(claims) == 2
    assert [claim for claim in claims if not is_told("README.md", *claim[1:])] == []
