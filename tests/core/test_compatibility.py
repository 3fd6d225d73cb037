"""The page about the axes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "axes.md"


def test_the_page_has_the_table_of_the_registries() -> None:
    """Of a process in which no test has registered a member."""
    run = subprocess.run([sys.executable, "-m", "rl_agg.compatibility"], capture_output=True, text=True, check=True)
    _, rest = PAGE.read_text().split("<!-- begin: python -m rl_agg.compatibility -->\n")
    table, _ = rest.split("\n<!-- end -->")
    assert table.strip() == run.stdout.strip()
