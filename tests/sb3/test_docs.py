"""The documentation's tables name what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from rl_agg import COMBINERS
from rl_agg.attacks import ATTACKS
from rl_agg.envs.disturbances import Disturbance

DOCS = Path(__file__).parents[2] / "docs"


def rows(page: str, heading: str) -> set[str]:
    """First cells of the first table below a heading."""
    section = (DOCS / page).read_text().split(heading)[1]
    table = re.split(r"^\|[-|]+\|$", section, flags=re.MULTILINE)[1].split("\n\n")[0]
    return {cell for line in table.strip().splitlines() for cell in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_tables_are_complete() -> None:
    assert rows("combiners.md", "## Which there are") == {*COMBINERS, "torchjd:NAME"}
    assert rows("unequal.md", "## Disturbances") == {field.name for field in fields(Disturbance)}
    assert rows("unequal.md", "## Attacks") == set(ATTACKS)
    assert rows("communication.md", "## LAG") == {"xi", "window"}
