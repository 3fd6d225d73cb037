"""The commands of ``rl-agg``, each with the imports that it needs: several take seconds."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rl_agg.study.errors import StudyError
from rl_agg.study.terminal import counted, say

if TYPE_CHECKING:
    from rich.console import Console

    from rl_agg.study.analysis.results import Results


def compare(
    spec: Path,
    out: Path | None,
    quick: bool,
    dry_run: bool,
    workers: int | None,
    address: str | None,
    retry_failed: bool,
    tensorboard: bool,
) -> int:
    """Run a study and write its report."""
    from rich.console import Console

    from rl_agg.study.spec.loading import load_study
    from rl_agg.study.spec.naming import default_folder

    console = Console()
    _find_the_users_modules()
    study = load_study(spec, quick=quick)
    out = out or default_folder(study, quick=quick)
    say(console, f"{study.name}: {counted(len(study.cells), 'cell')}, in {out}")

    from rl_agg.study.analysis.store import Store

    if tensorboard:
        from rl_agg.study.report.tensorboard import write_events  # before anything runs, as it may not be installed
    store = Store(out)
    store.refuse_to_overwrite(spec, study)
    store.refuse_other_files()
    if dry_run:
        from rl_agg.study.run.preview import preview

        preview(study, out, console, retry_failed=retry_failed)
        return 0
    say(console, "Loading Ray …")
    from rl_agg.study.report.live import LivePage
    from rl_agg.study.run.engine import run_study

    say(console, f"Page, written again as cells finish: {out / 'report.html'}")
    with LivePage(out) as page:
        failed = run_study(
            study, out, workers=workers, address=address, retry_failed=retry_failed, console=console, on_cell_over=page.update
        )
    say(console, "Writing the report …")
    results = _report(out, console)
    if tensorboard:
        say(console, f"TensorBoard: tensorboard --logdir {write_events(results, out)}")
    for cell in failed:
        say(console, f"FAILED {cell}; see {out / 'failures'}", style="red")
    return 1 if failed else 0


def init(env: str, out: Path | None) -> int:
    """Write a commented study of an environment."""
    from rl_agg.study.spec.starting import write_first_study

    _find_the_users_modules()
    path = write_first_study(env, out)
    print(f"Wrote {path}. Next: rl-agg compare {shlex.quote(str(path))} --dry-run, then --quick, then without either")
    return 0


def report(directory: Path) -> int:
    """Write the report of a study again, whether it is finished or not."""
    from rich.console import Console

    _report(directory, Console())
    return 0


def open_page(directory: Path) -> int:
    """Show the page of a study in the browser."""
    import webbrowser

    page = directory / "report.html"
    if not page.is_file():
        known = (directory / "study.yaml").is_file()
        remedy = f"rl-agg report {directory} writes it" if known else "name the folder of a study, as compare's --out"
        raise StudyError(f"there is no page {page}; {remedy}")
    if not webbrowser.open(page.absolute().as_uri()):
        raise StudyError(f"no browser was found; open {page.absolute()} in one")
    print(f"Opened {page}")
    return 0


def merge(directories: list[Path], out: Path) -> int:
    """Merge the results of several machines for one study, or for parts of it, and write the report."""
    from rich.console import Console

    from rl_agg.study.run.merging import differing_cells, merge_studies

    study = merge_studies(directories, out)
    results = _report(out, Console())
    print(f"{len(results.records)} of {len(study.cells)} cells are finished")
    if differing := differing_cells(directories, out):
        print(f"{len(differing)} of them differ between the folders, for example {differing[0]}; the first ones were kept")
    return 0


def systems() -> int:
    """List the known systems, by their choice on each of five axes."""
    import yaml
    from rich.console import Console
    from rich.markup import escape

    from rl_agg.study.spec.systems import catalogues

    console, known = Console(), catalogues()
    width = max((len(name) for catalogue in known for name in catalogue.systems), default=0)
    console.print(
        f"{'System':{width}}  gate · codec · rule · payload · schedule (paper)\n  its entry in a study", highlight=False
    )
    for catalogue in known:
        console.print()
        for name, system in catalogue.systems.items():
            axes = " · ".join((system.gate, system.codec, system.rule, system.payload, system.schedule))
            entry = {name: {"system": system.system, "settings": system.settings}}
            text = yaml.safe_dump(entry, default_flow_style=True, width=999, sort_keys=False).strip()[1:-1]
            console.print(f"[bold]{escape(name):{width}}[/]  {axes} ({system.paper})", highlight=False, soft_wrap=True)
            console.print(f"  [dim]{escape(text)}[/]", highlight=False, soft_wrap=True)
        if catalogue.note:
            console.print(f"\n{escape(catalogue.note)}", highlight=False, soft_wrap=True)
    return 0


def bench(arguments: list[str]) -> int:
    """Measure speed with one of the benchmarks of a checkout.

    :param arguments: Which one, and its own options.
    :raises StudyError: if there is no checkout.
    """
    script = Path(__file__).parents[2] / "benchmarks" / "run.py"
    if not script.is_file():
        raise StudyError("the benchmarks come with the repository, not with the package; clone it and run pip install -e .")
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode


def _find_the_users_modules() -> None:
    sys.path.insert(0, os.getcwd())  # so that a study can name classes of them


def _report(directory: Path, console: "Console") -> "Results":
    from rich.markup import escape

    from rl_agg.study.report.tables import terminal_tables
    from rl_agg.study.report.verdict import verdicts
    from rl_agg.study.report.writing import write_report

    results = write_report(directory)
    for table in terminal_tables(results, console.width):
        console.print(table)
    for verdict in verdicts(results):
        console.print(f"[bold]{escape(verdict.headline)}[/] {escape(verdict.detail)}\n", highlight=False)
    say(console, f"Report: {directory / 'report.html'}")
    return results
