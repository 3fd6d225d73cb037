"""The command line: exit statuses, one-line errors, help."""

import re
import subprocess
import sys
from importlib.metadata import version

import pytest
from returns import keep

from rl_agg import LOCAL_SCHEMES
from rl_agg.combiners import COMBINERS
from rl_agg.study import cli, commands
from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import extra_of
from rl_agg.study.run.runners import runner_for
from rl_agg.study.spec.study import System
from rl_agg.study.spec.systems import catalogues
from rl_agg.weighting import RULES

SPEC = """
name: cli
baseline: stock
systems: {stock: {system: "SYSTEM"}}
environments: {CartPole-v1: {num_agents: 2, settings: {n_steps: 32, batch_size: 32, n_epochs: 1}}}
budget: {updates: 50}
quick: {budget: {updates: 1}}
"""


COMMANDS = ("init", "compare", "report", "open", "merge", "systems", "bench")


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.replace("SYSTEM", "stable_baselines3:PPO"))
    return path


@pytest.mark.usefixtures("ray_session")
def test_compare_then_report_then_the_resolved_study(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "spec.yaml", "--out", "out", "--quick", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "[1/1] stock on CartPole-v1, seed 0" in shown
    assert "Report: out/report.html" in shown
    (tmp_path / "out" / "report.html").unlink()
    assert cli.main(["report", "out"]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert cli.main(["compare", "out/study.yaml", "--out", "out"]) == 0
    assert "1 of 1 cells are already finished" in capsys.readouterr().out


@pytest.mark.remote
@pytest.mark.usefixtures("ray_session")
def test_without_out_a_folder_is_named_after_the_study(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "spec.yaml", "--quick", "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("cli: 1 cell, in runs/cli-quick\n")
    for line in (
        "Loading Ray …",
        "Checking the settings of 1 cell …",
        "Starting Ray …",
        "Training 1 cell; the first ones load their framework …",
        "Writing the report …",
    ):
        assert f"\n{line}\n" in shown
    assert (tmp_path / "runs" / "cli-quick" / "report.html").exists()


@pytest.mark.remote
@pytest.mark.usefixtures("ray_session")
def test_records_as_tensorboard_events(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "spec.yaml", "--out", "out", "--quick", "--workers", "1", "--tensorboard"]) == 0
    assert "TensorBoard: tensorboard --logdir out/tensorboard" in capsys.readouterr().out
    assert [path.name[:6] for path in (tmp_path / "out" / "tensorboard").glob("stock--*/*")] == ["events"]


def test_without_tensorboardx_nothing_runs(spec, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.delitem(sys.modules, "rl_agg.study.report.tensorboard", raising=False)
    monkeypatch.setattr("rl_agg.study.errors.extra_of", {"tensorboardX": "study"}.get)
    assert cli.main(["compare", str(spec), "--out", str(tmp_path / "out"), "--tensorboard"]) == 2
    assert capsys.readouterr().err == "rl-agg: tensorboardX is not installed: pip install 'rl-agg[study]'\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.remote
@pytest.mark.usefixtures("ray_session")
def test_failed_cells_and_the_users_own_modules(tmp_path, capsys, monkeypatch):
    (tmp_path / "my_systems.py").write_text(
        "from stable_baselines3 import PPO\nclass Mine(PPO):\n    def train(self):\n        raise RuntimeError('mine')\n"
    )
    (tmp_path / "spec.yaml").write_text(SPEC.replace("SYSTEM", "my_systems:Mine"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert cli.main(["compare", "spec.yaml", "--out", "out", "--quick"]) == 1
    shown = capsys.readouterr().out
    assert "FAILED stock on CartPole-v1, seed 0: RuntimeError: mine" in shown
    assert "out/failures" in shown


def test_the_users_own_spec_is_not_overwritten(spec, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    spec = spec.rename(out / "study.yaml")
    written = spec.read_bytes()
    for more in ([], ["--quick"]):
        assert cli.main(["compare", str(spec), "--out", str(out), *more]) == 2
        assert "study.yaml would be overwritten with the resolved study" in capsys.readouterr().err
        assert spec.read_bytes() == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "nothing.yaml", "--out", "out"], "cannot read nothing.yaml"),
        (["compare", "nothing.yaml", "--dry-run"], "cannot read nothing.yaml"),
        *(
            (
                ["compare", "nothing.yaml", "--dry-run", "--workers", workers],
                f"argument --workers: must be a whole number of at least 1, got '{workers}'; see rl-agg compare --help",
            )
            for workers in ("two", "0", "1.5")
        ),
        (["compare"], "the following arguments are required: SPEC; see rl-agg compare --help"),
        (["compaer"], "invalid choice: 'compaer' (choose from"),
        ([], "the following arguments are required: COMMAND; see rl-agg --help"),
        (["merge", "a"], "the following arguments are required: --out"),
        (["report", "nowhere"], "holds no study"),
        (["init", "CartPole-v1", "--out", "nowhere/a.yaml"], "rl-agg: nowhere/a.yaml: No such file or directory"),
        (["open", "nowhere"], "there is no page nowhere/report.html; name the folder of a study"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("rl-agg: ")
    assert words in error
    assert error.count("\n") == 1


def test_an_interrupted_study_says_how_to_go_on(spec, tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("rl_agg.study.run.engine.run_study", interrupt)
    assert cli.main(["compare", str(spec), "--out", str(tmp_path / "out")]) == 130
    assert "the same command continues" in capsys.readouterr().err


GONE = """
import sys
class Gone:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
from rl_agg.study.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("module", "extra"), [("rich", "study"), ("stable_baselines3", "sb3")])
def test_a_missing_extra_is_named(spec, tmp_path, module, extra):
    command = [sys.executable, "-c", GONE, module, "compare", str(spec), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'rl-agg[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        *(("ray", "study"), ("matplotlib", "study"), ("rich", "study"), ("yaml", "study"), ("sb3_contrib", "sb3")),
        *(("Box2D", "envs"), ("jaxmarl", "marl"), ("ray.rllib", None), ("toy", None), ("", None)),
    ],
)
def test_extras_are_those_of_the_distribution(module, extra):
    assert extra_of(module) == extra


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("ray.rllib.algorithms.impal:IMPALA", "there is no module 'ray.rllib.algorithms.impal'"),
        ("mine:Nope", "mine has an unknown name 'Nope'"),
        ("./mine.py:Mine", "a system is an import path 'module:Class', got './mine.py:Mine'"),
        (".mine:Mine", "a system is an import path 'module:Class', got '.mine:Mine'"),
        ("mine_raises:Mine", "mine_raises cannot be imported: ValueError: at import"),
        ("mine_misspells:Mine", "mine_misspells cannot be imported: AttributeError: module 'math' has no attribute 'nothing'"),
        ("mine_is_no_python:Mine", "mine_is_no_python cannot be imported: SyntaxError"),
        ("mine_ends:Mine", "mine_ends cannot be imported: SystemExit: 3"),
        ("mine:Ends", "stock on CartPole-v1, seed 0 cannot be built: SystemExit: 4"),
    ],
)
def test_a_system_that_cannot_be_imported_is_one_line(spec, tmp_path, capsys, monkeypatch, path, words):
    modules = {
        "mine": "import sys\nfrom stable_baselines3 import PPO\n"
        "class Ends(PPO):\n    def __init__(self, *_, **__):\n        sys.exit(4)\n",
        "mine_raises": "raise ValueError('at import')",
        "mine_misspells": "import math\nmath.nothing",
        "mine_is_no_python": "def f(:",
        "mine_ends": "import sys\nsys.exit(3)",
    }
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    spec.write_text(SPEC.replace("SYSTEM", path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert cli.main(["compare", "spec.yaml", "--out", "out", "--quick"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for command in COMMANDS:
        assert command in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_help_begins_with_the_commands_own_usage_and_ends_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: rl-agg {command} ")
    assert " ".join(shown.split("\n\n")[-1].split()).startswith(f"example: rl-agg {command}")


def test_merge_takes_several_folders(capsys):
    with pytest.raises(SystemExit):
        cli.main(["merge", "--help"])
    assert "DIR [DIR ...]" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rl-agg {version('rl-agg')}\n"


@pytest.mark.parametrize("found", [True, False])
def test_open_shows_the_page(tmp_path, capsys, monkeypatch, found):
    shown = []
    monkeypatch.setattr("webbrowser.open", lambda address: shown.append(address) or found)
    (tmp_path / "study.yaml").touch()
    assert cli.main(["open", str(tmp_path)]) == 2
    assert f"rl-agg report {tmp_path} writes it" in capsys.readouterr().err
    page = tmp_path / "report.html"
    page.touch()
    assert cli.main(["open", str(tmp_path)]) == (0 if found else 2)
    assert shown == [page.as_uri()]
    if not found:
        assert f"no browser was found; open {page}" in capsys.readouterr().err


def test_systems_are_listed(capsys):
    assert cli.main(["systems"]) == 0
    shown = capsys.readouterr().out
    for catalogue in catalogues():
        assert catalogue.note in shown
        for name, system in catalogue.systems.items():
            assert name in shown
            assert (
                f"{system.gate} · {system.codec} · {system.rule} · {system.payload} · {system.schedule} ({system.paper})"
                in shown
            )
            assert system.system in shown


def test_listed_systems_exist(tiny):
    systems = [system for catalogue in catalogues() for system in catalogue.systems.values()]
    notes = " ".join(catalogue.note for catalogue in catalogues())
    for path in {*re.findall(r"\w+:\w+", notes), *(system.system for system in systems)}:
        assert runner_for(tiny(systems={"stock": System(path)}).cells[0])
    named = {system.settings["aggregation"] for system in systems if system.system == "sb3_agg:AggPPO"}
    pps = {"a_pps", "rs_pps", "pp_pps", "reward_shares"}  # listed as QMIX's
    over_gradients = {name for name, rule in RULES.items() if "gradients" in rule.payloads}
    assert named == {*over_gradients, *COMBINERS, *LOCAL_SCHEMES} - pps


def test_listing_systems_and_reading_a_report_import_no_host(tmp_path, tiny, updates_of):
    """So that what an extra would bring is listed without it, and a report can be written anywhere."""
    store = Store(tmp_path)
    with store.writing(tiny()):
        keep(store, tiny().cells[0], updates_of([1.0]))
    script = (
        "import sys; from rl_agg.study.cli import main; assert main(['systems']) == main(['report', sys.argv[1]]) == 0;"
        "print({'ray', 'stable_baselines3', 'sb3_agg', 'rllib_agg'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "QMIX" in done.stdout
    assert "Krum" in done.stdout


def test_a_full_disk_is_one_line(spec, tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device", str(tmp_path / "report.html"))

    monkeypatch.setattr(commands, "report", fail)
    assert cli.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rl-agg: ")
    assert "No space left on device" in error
    assert error.count("\n") == 1


def test_a_benchmark_has_its_own_options(capfd):
    assert cli.main(["bench", "es_functions", "--help"]) == 0
    assert "usage: run.py es_functions" in capfd.readouterr().out
    assert cli.main(["bench", "es_function"]) != 0
    assert "NAME is one of broken_sensors, es, es_cartpole" in capfd.readouterr().err


def test_benchmarks_need_a_checkout(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(commands, "__file__", str(tmp_path / "rl_agg" / "study" / "commands.py"))
    assert cli.main(["bench", "sb3"]) == 2
    assert "benchmarks come with the repository" in capsys.readouterr().err
