"""What faults and bad input do to a study: one line, nothing outside its folder, nothing lost."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_agg.study.analysis.records import DIGEST_KEY, METADATA_KEY, decoded
from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.errors import StudyError
from rl_agg.study.report.writing import write_report
from rl_agg.study.run.merging import merge_studies
from rl_agg.study.spec.loading import load_study
from rl_agg.study.spec.parsing import load_yaml
from rl_agg.study.spec.study import Environment, System
from tests.study.small_studies import record, small

SPEC = """
name: tried
baseline: stock
systems: {stock: {system: "stable_baselines3:PPO", settings: {n_steps: 16, batch_size: 16, n_epochs: 1}}}
environments: {CartPole-v1: {num_agents: 2}}
budget: {updates: 1}
"""


@pytest.fixture
def kept(tmp_path):
    study = small()
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            store.keep(cell, record(cell))
    return store


# Nothing outside the folder ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".lock", "study.yaml", "cells", "failures", "figures"])
def test_links_are_not_followed_out_of_a_folder(kept, tmp_path, place):
    outside = tmp_path / "outside"
    is_folder = place in ("cells", "failures", "figures")
    if is_folder:
        outside.mkdir()
    else:
        outside.write_text("victim")
    inside = kept.directory / place
    if inside.is_dir():
        inside.rename(tmp_path / "moved")
    inside.unlink(missing_ok=True)
    inside.symlink_to(outside)
    with (
        pytest.raises(StudyError, match=f"{place} is a link, and nothing in a study's folder is followed out of it"),
        kept.writing(small()),
    ):
        pytest.fail("it began")
    with pytest.raises(StudyError, match="is a link"):
        write_report(kept.directory)
    with pytest.raises(StudyError, match="is a link"):
        merge_studies([kept.directory], kept.directory)
    assert list(outside.iterdir()) == [] if is_folder else outside.read_text() == "victim"


def test_a_hard_link_is_not_written_to(kept, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("victim")
    (kept.directory / ".lock").unlink()
    os.link(victim, kept.directory / ".lock")
    with pytest.raises(StudyError, match=r"\.lock is a link to another file"), kept.writing(small()):
        pytest.fail("it began")
    assert victim.read_text() == "victim"


@pytest.mark.parametrize("name", ["report.md", "report.csv", "comparisons.csv", "report.html", "figures/X-v0.png"])
def test_a_report_replaces_links(kept, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_text("victim")
    (kept.directory / name).parent.mkdir(exist_ok=True)
    (kept.directory / name).symlink_to(victim)
    write_report(kept.directory)
    assert victim.read_text() == "victim"
    assert not (kept.directory / name).is_symlink()


# Records ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_flipped_bit_is_noticed():
    """In the footer as in the pages: what is decoded is what was encoded, or nothing."""
    cell = small().cells[0]
    content = bytearray(record(cell))
    expected = decoded(cell, bytes(content))
    generator = np.random.default_rng(0)
    footer = int.from_bytes(content[-8:-4], "little")
    places = [*generator.integers(0, len(content), 300), *range(len(content) - footer, len(content))]
    for place in places:
        bit = 1 << int(generator.integers(8))
        content[place] ^= bit
        found = decoded(cell, bytes(content))
        if found is not None:
            assert found.metadata == expected.metadata
            assert found.updates.equals(expected.updates)
        content[place] ^= bit


def changed(content, change_table=lambda table: table, change=lambda metadata: metadata, keep_digest=False):
    table = pq.read_table(pa.BufferReader(content))
    kept = {DIGEST_KEY: table.schema.metadata[DIGEST_KEY]} if keep_digest else {}  # which older versions did not write
    metadata = change(json.loads(table.schema.metadata[METADATA_KEY]))
    table = change_table(table).replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode(), **kept})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def test_a_record_of_an_older_version_is_read():
    cell = small().cells[0]
    assert decoded(cell, changed(record(cell))).updates.equals(decoded(cell, record(cell)).updates)


def texts(table):
    return table.set_column(table.column_names.index("return"), "return", pa.array(["1", "2", "3"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"change_table": texts}, r"column return holds string instead of double"),
        ({"change": lambda metadata: {**metadata, "versions": None}}, "unknown.*versions is None"),
        ({"change": lambda metadata: {**metadata, "warnings": "none"}}, "warnings is 'none'"),
        ({"change": lambda metadata: {**metadata, "host": 3}}, "host is 3"),
    ],
    ids=["texts", "no versions", "no list", "a number"],
)
def test_odd_values_in_a_record_are_named(kept, change, message, capsys):
    cell = kept.study().cells[0]
    file = next(file for file in (kept.directory / "cells").iterdir() if file.name.startswith(cell.id))
    file.write_bytes(changed(record(cell), **change))
    assert main(["report", str(kept.directory)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert file.name in shown
    with pytest.raises(StudyError, match=message):
        kept.read(cell)
    file.write_bytes(changed(record(cell), keep_digest=True, **change))
    assert kept.read(cell) is None  # damaged: run again


@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, -1e-320, 0.0])
def test_returns_of_any_size_have_a_page(tmp_path, value):
    study = small(seeds=3)
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            factor = 1.0 if cell.system_name == "a" else -1.0
            store.keep(cell, record(cell, factor * value))
    write_report(store.directory)
    assert (store.directory / "report.html").stat().st_size > 10_000
    assert (store.directory / "figures" / "X-v0.png").is_file()


# Specs ------------------------------------------------------------------------------------------------------------------


def bomb(levels):
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(10), "stands for more than 100000 values, its aliases written out"),
        (SPEC + "seeds: 1000000000", r"1 systems, 1 environments and these seeds are 1000000000 cells; at most 100000"),
        (SPEC + "seeds: -3", "seeds must be at least 1, got -3"),
        (SPEC.replace("num_agents: 2", "num_agents: 1000000000"), "num_agents must be from 1 to 65536, got 1000000000"),
        (SPEC.replace("num_agents: 2", f"num_agents: {'9' * 4000}"), "got a number of about 400. digits"),
        (SPEC.replace("num_agents: 2", f"num_agents: {'9' * 5000}"), "is not a YAML file: .*5000 digits"),
        (SPEC.replace("num_agents: 2", f"threshold: {'9' * 4000}"), "threshold must be a number below 1e308"),
        (SPEC.replace("num_agents: 2", "threshold: .inf"), "threshold must be finite, got inf"),
        (SPEC.replace("num_agents: 2", "threshold: 2020-02-31"), "is not a YAML file: day is out of range for month"),
        (SPEC.replace("num_agents: 2", "threshold: 2020-02-03"), "threshold must be a number or null, got datetime.date"),
        (SPEC.replace("n_epochs: 1", "n_epochs: 2020-02-03"), "n_epochs must be text, a number, true.*put it in quotes"),
        (SPEC.replace("updates: 1", f"updates: {'9' * 400}"), "a budget must be at most 1e"),
        (SPEC + "x: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        (SPEC.replace("stock", '"\\e[2Jstock"'), "no control characters"),
        (SPEC.replace("stock", '"=cmd()"'), "a name must not begin with '='"),
        (SPEC.replace("name: tried", 'name: "a\\u202eb"'), "no control characters"),
        (SPEC.replace("name: tried", "name: [tried"), r"is not a YAML file: line 3, column \d+: "),
        (SPEC.replace("{CartPole-v1: {num_agents: 2}}", "{'{a}': {matrix: {a: [" + ", ".join(map(str, range(101))) + "], b: ["
         + ", ".join(map(str, range(100))) + "]}}}"), "matrix stands for 10100 entries; at most 10000"),
    ],
)  # fmt: skip
def test_bad_specs_are_one_line(tmp_path, capsys, text, message):
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    with pytest.raises(StudyError, match=message):
        load_study(spec)
    assert main(["compare", str(spec), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("rl-agg: ")
    assert shown.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_errors_of_yaml_name_file_and_line(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: a\nbaseline: b: c\n")
    with pytest.raises(StudyError, match=r"spec.yaml is not a YAML file: line 2, column 12: mapping values are not allowed"):
        load_yaml(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("n_steps: 16", "n_steps: many"), "n_steps must be an integer, got 'many'"),
        (("n_steps: 16", "n_steps: 16, gamma: high"), "gamma must be a number, got 'high'"),
        (("n_steps: 16", "n_steps: 16, policy_kwargs: text"), "policy_kwargs must be a mapping or null, got 'text'"),
        (("n_steps: 16", "n_steps: true"), "n_steps must be an integer, got True"),
        (("n_epochs: 1}", "n_epochs: 1}, policy: MlpPolice"), r"unknown policy 'MlpPolice' \(did you mean 'MlpPolicy'\?\)"),
        (("num_agents: 2", 'wrappers: [{wrapper: "stable_baselines3:PPO"}]'), "stable_baselines3:PPO is no gymnasium.Wrapper"),
        (("stable_baselines3:PPO", "gymnasium.wrappers:TimeLimit"), "no runner is registered for gymnasium.wrappers:TimeL"),
    ],
)  # fmt: skip
def test_settings_of_another_type_are_named(tmp_path, capsys, change, message):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.replace(*change))
    assert main(["compare", str(spec), "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert re.search(message, shown)


@pytest.mark.parametrize("seeds", ["-3", "[1, 1]", "1000000000"])
def test_a_folders_study_is_checked_when_it_is_read(kept, capsys, seeds):
    file = kept.directory / "study.yaml"
    file.write_text(file.read_text() + f"seeds: {seeds}\n")
    assert main(["report", str(kept.directory)]) == 2
    assert "seeds" in capsys.readouterr().err


def test_unrelated_studies_are_not_merged(kept, tmp_path):
    other = Store(tmp_path / "other")
    with other.writing(small(baseline="c", systems={"c": System("m:C")}, environments={"Y-v0": Environment()})):
        pass
    with pytest.raises(StudyError, match=r"other \('small': c on Y-v0\) is no part of 'small' \(a, b on X-v0\)"):
        merge_studies([kept.directory, other.directory], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# Ray --------------------------------------------------------------------------------------------------------------------


@pytest.mark.remote
def test_a_ray_that_does_not_start_is_tried_once_more_and_then_one_line(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC)
    code = (
        "import ray, sys; calls = []\n"
        "def fail(**settings):\n"
        "    calls.append(settings); raise TimeoutError('Timed out waiting for file\\nmore')\n"
        "ray.init = fail\n"
        "from rl_agg.study.cli import main\n"
        f"status = main(['compare', {str(spec)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
        "print(len(calls)); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout.strip().endswith("2")
    assert "rl-agg: Ray did not start on this machine (Timed out waiting for file); close what keeps it busy" in done.stderr
    assert "Traceback" not in done.stderr
