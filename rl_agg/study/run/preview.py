"""What a study would run, without running it."""

from collections import Counter
from pathlib import Path

from rich.console import Console

from rl_agg.study.analysis.store import Store
from rl_agg.study.run.checking import check_each_combination
from rl_agg.study.spec.study import Study
from rl_agg.study.terminal import counted, say


def preview(study: Study, directory: Path, console: Console, *, retry_failed: bool = False) -> None:
    """Check the cells that would run as :func:`~rl_agg.study.run.engine.run_study` does, and list all; write nothing.

    :param directory: Where its records are and would go.
    :param retry_failed: Count cells that failed before among those that would run.
    :raises StudyError: if a cell cannot start, or the folder holds another study.
    """
    store = Store(directory)
    store.refuse_another(study)
    states = {}
    for cell in study.cells:
        has_failed = not retry_failed and store.failure(cell) is not None
        states[cell] = "finished" if store.read(cell) is not None else "failed before" if has_failed else "would run"
    say(console, "Checking the settings …")
    check_each_combination([cell for cell, state in states.items() if state != "finished"], console)
    for cell, state in states.items():
        say(console, f"{state:13}  {cell}")
    counts = ", ".join(f"{number} {state}" for state, number in Counter(states.values()).items())
    say(console, f"{counted(len(states), 'cell')}: {counts}. Settings are valid; nothing was trained or written")
