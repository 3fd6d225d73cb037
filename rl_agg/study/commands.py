"""The commands of ``rl-agg``."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
import yaml
from rich.console import Console
from rich.markup import escape

from rl_agg.study.analysis.results import Results
from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.report.tables import terminal_tables
from rl_agg.study.report.verdict import verdicts
from rl_agg.study.report.writing import write_report
from rl_agg.study.run.merging import differing_cells, merge_studies
from rl_agg.study.spec.loading import load_study
from rl_agg.study.spec.systems import catalogues


def compare(
    spec: tyro.conf.Positional[Path],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    quick: Annotated[bool, tyro.conf.arg(help="Apply the spec's 'quick' overrides: a short trial.")] = False,
    workers: Annotated[int | None, tyro.conf.arg(metavar="N", help="Cells at a time; one per CPU unless given.")] = None,
    address: Annotated[
        str | None,
        tyro.conf.arg(metavar="ADDRESS", help="Run on the Ray cluster there; 'auto' is this machine's."),
    ] = None,
    retry_failed: Annotated[bool, tyro.conf.arg(help="Run cells again that failed before.")] = False,
) -> int:
    """Run a study and write its report. Killed and started again, it continues where it stopped.

    :param spec: The study, a YAML file.
    :param out: Folder for its records and report.
    """
    from rl_agg.study.run.engine import run_study  # Ray takes seconds to import

    console = Console()
    sys.path.insert(0, os.getcwd())  # so that a study can name classes of the user's own modules
    study = load_study(spec, quick=quick)
    Store(out).refuse_to_overwrite(spec, study)
    failed = run_study(study, out, workers=workers, address=address, retry_failed=retry_failed, console=console)
    _show(write_report(out), out, console)
    for cell in failed:
        console.print(
            f"[red]FAILED[/] {escape(str(cell))}; see {escape(str(out / 'failures'))}", highlight=False, soft_wrap=True
        )
    return 1 if failed else 0


def report(directory: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DIR")]], /) -> int:
    """Write the report of a study again, whether it is finished or not.

    :param directory: The folder given to compare as --out.
    """
    _show(write_report(directory), directory, Console())
    return 0


def merge(
    directories: tyro.conf.Positional[Annotated[list[Path], tyro.conf.arg(metavar="DIR")]],
    /,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")],
) -> int:
    """Merge the results of several machines for one study, or for parts of it, and write the report.

    :param directories: Folders given to compare as --out.
    :param out: Folder for all of their records.
    """
    study = merge_studies(directories, out)
    results = write_report(out)
    _show(results, out, Console())
    print(f"{len(results.records)} of {len(study.cells)} cells are finished")
    if differing := differing_cells(directories, out):
        print(f"{len(differing)} of them differ between the folders, for example {differing[0]}; the first ones were kept")
    return 0


def systems() -> int:
    """List the known systems, by their choice on each of four axes."""
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


def bench(arguments: tyro.conf.Positional[Annotated[list[str], tyro.conf.arg(metavar="NAME [OPTIONS]")]], /) -> int:
    """Measure speed with one of the benchmarks of a checkout.

    :param arguments: Which one, and its own options.
    :raises StudyError: if there is no checkout.
    """
    script = Path(__file__).parents[2] / "benchmarks" / "run.py"
    if not script.is_file():
        raise StudyError("the benchmarks come with the repository, not with the package; clone it and run pip install -e .")
    return subprocess.run([sys.executable, str(script), *arguments], check=False).returncode


def run(arguments: Sequence[str] | None) -> int:
    """Parse a command line and carry it out.

    :return: Exit status.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["bench"]:  # the benchmark parses its own options
        return bench(arguments[1:])
    commands: dict[str, Callable[..., int]] = {
        "compare": compare,
        "report": report,
        "merge": merge,
        "systems": systems,
        "bench": bench,
    }
    status: int = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="rl-agg",
        description="Compare ways of aggregating parallel agents in reinforcement learning.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    return status


def _show(results: Results, directory: Path, console: Console) -> None:
    for table in terminal_tables(results, console.width):
        console.print(table)
    for verdict in verdicts(results):
        console.print(f"[bold]{escape(verdict.headline)}[/] {escape(verdict.detail)}\n", highlight=False)
    console.print(f"Report: {escape(str(directory / 'report.html'))}", highlight=False, soft_wrap=True)
