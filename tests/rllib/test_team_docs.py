"""The tables of docs/team_environments.md name what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from rllib_agg.envs.team.named_agents import CustomSettings
from rllib_agg.envs.team.registry import BACKENDS

PAGE = (Path(__file__).parents[2] / "docs" / "team_environments.md").read_text()


def first_cells(heading: str) -> list[str]:
    table = re.split(r"^\|[-|]+\|$", PAGE.split(heading)[1], flags=re.MULTILINE)[1].split("\n\n")[0]
    return [line.split("|")[1].strip(" `") for line in table.strip().splitlines()]


def test_its_tables_are_complete() -> None:
    assert sorted(first_cells("## Backends")) == sorted(BACKENDS)
    assert first_cells("## One's own environment") == [field.name for field in fields(CustomSettings)]
