"""Links of the pages lead somewhere: to a file of the repository and, where they name one, to a heading on it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.anchors import anchors_plugin

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
MARKDOWN = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=3)  # as deep as myst_heading_anchors


def tokens(page: Path) -> Iterator[Token]:
    for block in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield block
        yield from block.children or []


@cache
def anchors(page: Path) -> set[str]:
    return {str(token.attrs["id"]) for token in tokens(page) if token.type == "heading_open" and "id" in token.attrs}


def targets(page: Path) -> set[str]:
    """Where links and images of a page point to, those on other sites left out."""
    found = {
        str(token.attrs.get("href") or token.attrs.get("src"))
        for token in tokens(page)
        if token.type in ("link_open", "image")
    }
    return {unquote(target) for target in found if ":" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target
