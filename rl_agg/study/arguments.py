"""What the command line takes. Nothing heavy is imported here: help must come at once."""

import argparse
from pathlib import Path
from typing import NoReturn

import rl_agg
from rl_agg.study import commands
from rl_agg.study.errors import StudyError


class _Parser(argparse.ArgumentParser):
    """Raises a one-line error where argparse prints a usage line as well and exits."""

    def error(self, message: str) -> NoReturn:
        raise StudyError(f"{message}; see {self.prog} --help")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The parser; its result has ``command``, the function that carries the request out, and that function's arguments."""
    root = _Parser(
        prog="rl-agg",
        description="Compare ways of aggregating parallel agents in reinforcement learning.",
        epilog="example: rl-agg init CartPole-v1, then rl-agg compare cartpole-v1.yaml, then rl-agg open runs/cartpole-v1",
    )
    root.add_argument("--version", action="version", version=f"rl-agg {rl_agg.__version__}")
    choices = root.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: object, summary: str, example: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = choices.add_parser(
            name, help=summary, description=summary, epilog=f"example: rl-agg {name}{example}"
        )
        added.set_defaults(command=command)
        return added

    init = add("init", commands.init, "Write a commented study of an environment, to start from.", " CartPole-v1")
    init.add_argument("env", metavar="ENV", help="a Gymnasium id (CartPole-v1, my_module:MyEnv-v0) or a team's (smax/3m)")
    init.add_argument("--out", type=Path, metavar="FILE", help="where to; <name>.yaml unless given")

    compare = add(
        "compare",
        commands.compare,
        "Run a study and write its report. Killed and started again, it continues where it stopped.",
        " study.yaml --quick",
    )
    compare.add_argument("spec", type=Path, metavar="SPEC", help="the study, a YAML file")
    compare.add_argument("--out", type=Path, metavar="DIR", help="folder for records and report; runs/<name> unless given")
    compare.add_argument("--quick", action="store_true", help="apply the study's 'quick' overrides: a short trial")
    compare.add_argument("--dry-run", action="store_true", help="check the study and list what would run; write nothing")
    compare.add_argument("--workers", type=_count, metavar="N", help="cells at a time; one per CPU unless given")
    compare.add_argument("--address", help="run on the Ray cluster there; 'auto' is the one this machine is part of")
    compare.add_argument("--retry-failed", action="store_true", help="run cells again that failed before")
    compare.add_argument("--tensorboard", action="store_true", help="write the records as TensorBoard events too")

    report = add("report", commands.report, "Write the report of a study again, finished or not.", " runs/study")
    report.add_argument("directory", type=Path, metavar="DIR", help="the study's folder")

    open_page = add("open", commands.open_page, "Show the page of a study in the browser.", " runs/study")
    open_page.add_argument("directory", type=Path, metavar="DIR", help="the study's folder")

    merge = add(
        "merge",
        commands.merge,
        "Merge the results of several machines for one study, or for parts of it, and write the report.",
        " runs/here runs/there --out runs/all",
    )
    merge.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="folders of the parts")
    merge.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for all of their records")

    add("systems", commands.systems, "List the known systems, by their choice on each of five axes.", "")

    bench = add("bench", commands.bench, "Measure speed with one of the benchmarks of a checkout.", " sb3 --no-loop")
    bench.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="NAME [OPTIONS]", help="which benchmark, and its own options"
    )
    return root
