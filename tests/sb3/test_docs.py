"""What the documentation shows runs, and its tables name what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest

from rl_agg import COMBINERS
from rl_agg.attacks import ATTACKS
from rl_agg.envs.unequal import Disturbance

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["combiners.md", "communication.md", "unequal.md"]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def rows(page: str, heading: str) -> set[str]:
    """First cells of the first table below a heading."""
    section = (DOCS / page).read_text().split(heading)[1]
    table = re.split(r"^\|[-|]+\|$", section, flags=re.MULTILINE)[1].split("\n\n")[0]
    return {cell for line in table.strip().splitlines() for cell in re.findall(r"`([^`]+)`", line.split("|")[1])}


@pytest.mark.parametrize(("page", "code"), [(page, code) for page in PAGES for code in blocks(page)])
def test_examples_run(page: str, code: str) -> None:
    if "torchjd" in code and find_spec("torchjd") is None:
        pytest.skip("TorchJD is not installed: pip install 'rl-agg[torchjd]'")
    exec(compile(code, page, "exec"), {"__name__": "example"})


def test_every_page_shows_something() -> None:
    assert {page: len(blocks(page)) for page in PAGES} == {"combiners.md": 4, "communication.md": 2, "unequal.md": 3}


def test_tables_are_complete() -> None:
    assert rows("combiners.md", "## Which there are") == {*COMBINERS, "torchjd:NAME"}
    assert rows("unequal.md", "## Disturbances") == {field.name for field in fields(Disturbance)}
    assert rows("unequal.md", "## Attacks") == set(ATTACKS)
    assert rows("communication.md", "## LAG") == {"xi", "window"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target
