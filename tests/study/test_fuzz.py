"""Thousands of valid files with something changed: an error of one line, or what was written; never Python's own."""

import contextlib
import copy
import io

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rl_agg.study.analysis.records import decoded
from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.errors import StudyError
from rl_agg.study.spec.loading import load_study
from rl_agg.study.spec.parsing import dumped
from tests.study.small_studies import record, small

pytestmark = pytest.mark.slow

SPEC = {
    "name": "a study",
    "baseline": "one",
    "systems": {
        "one": {"system": "m:A", "settings": {"lr": 0.1, "net": [8, 8]}},
        "h = {h}": {"system": "m:B", "matrix": {"h": [1, 2]}},
    },
    "environments": {"CartPole-v1": {"num_agents": 4, "threshold": 475, "unequal": [{"agents": [0], "scale": 0.1}]}},
    "seeds": [0, 1],
    "budget": {"updates": 3},
    "quick": {"seeds": 1},
    "end_share": 0.2,
}
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 5)), min_size=1, max_size=4)
FEW = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(10**400), 2**63, 0, -1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\x1b[2J", "=1", "\u202e", "a" * 5000, "{h}", "m:", ":", "1e400", "lin_x", "\ud800"]),
    st.dates(),
    st.lists(st.integers() | st.none(), max_size=3),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.integers() | st.text(max_size=3), max_size=3),
)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = [path for path in places(SPEC) if path]


def with_change(path, odd, what):
    spec = copy.deepcopy(SPEC)
    owner = spec
    for key in path[:-1]:
        owner = owner[key]
    if what == "replace":
        owner[path[-1]] = odd
    elif what == "delete":
        del owner[path[-1]]
    elif isinstance(owner, dict):
        owner[odd if isinstance(odd, str | int | float) else str(odd)] = owner.pop(path[-1])
    else:
        owner.append(odd)
    return spec


def tried(file, *, quick):
    with contextlib.suppress(StudyError):
        study = load_study(file, quick=quick)
        assert [str(cell) for cell in study.cells]
        written = file.with_name("again.yaml")
        written.write_text(dumped(study.to_mapping()))
        assert load_study(written).key == study.key


@given(st.sampled_from(PLACES), ODD, st.sampled_from(["replace", "rename", "delete"]), st.booleans())
@settings(FEW, max_examples=5000)
def test_specs_with_an_odd_value(tmp_path_factory, path, odd, what, quick):
    file = tmp_path_factory.getbasetemp() / "spec.yaml"
    try:
        text = yaml.dump(with_change(path, odd, what), allow_unicode=True)
        file.write_text(text)
    except (UnicodeEncodeError, ValueError):  # what YAML cannot write
        return
    tried(file, quick=quick)


@given(CHANGES)
@settings(FEW, max_examples=2000)
def test_specs_with_odd_bytes(tmp_path_factory, changes):
    content = bytearray(yaml.dump(SPEC).encode())
    for where, given_, removed in changes:
        at = int(where * len(content))
        content[at : at + removed] = given_
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(bytes(content))
    tried(file, quick=False)


@given(CHANGES, st.floats(0, 1))
@settings(FEW, max_examples=2500)
def test_records_with_odd_bytes(changes, end):
    cell = small().cells[0]
    whole = record(cell)
    content = bytearray(whole)
    for where, given_, removed in changes:
        at = int(where * len(content))
        content[at : at + removed] = given_
    if end < 0.2:
        del content[int(end * 5 * len(content)) :]
    with contextlib.suppress(StudyError):
        found = decoded(cell, bytes(content))
        if found is not None:
            assert found.updates.equals(decoded(cell, whole).updates)


@given(st.sampled_from(PLACES), ODD, st.sampled_from(["replace", "rename", "delete"]))
@settings(FEW, max_examples=500)
def test_reports_of_folders_with_an_odd_study(tmp_path_factory, path, odd, what):
    """By the command line: exit status and one line, or a report."""
    folder = tmp_path_factory.getbasetemp() / "folder"
    store = Store(folder)
    if not store.has_study:
        with store.writing(small()):
            pass
    try:
        (folder / "study.yaml").write_text(yaml.dump(with_change(path, odd, what), allow_unicode=True))
    except (UnicodeEncodeError, ValueError):
        return
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = main(["report", str(folder)])
    assert status in (0, 2)
    assert (errors.getvalue().count("\n") == 1) == (status == 2)
    assert "Traceback" not in errors.getvalue()
