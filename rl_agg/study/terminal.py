"""Lines for a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def counted(number: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number} {noun}" + "s" * (number != 1)


def say(console: "Console", line: str, style: str | None = None) -> None:
    """Print a line as it is, whatever the names in it look like."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
