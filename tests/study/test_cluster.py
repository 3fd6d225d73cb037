"""Studies on a Ray cluster of several machines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from rl_agg.study.analysis.records import CellUpdate, encoded
from rl_agg.study.analysis.store import Store
from rl_agg.study.cli import main
from rl_agg.study.run.cluster import SentRecords
from rl_agg.study.run.engine import run_study
from rl_agg.study.run.provenance import provenance
from rl_agg.study.spec.study import Environment, Study, System

CLUSTER = """
import sys
import threading
import ray.cluster_utils
from rl_agg.study.cli import main

# Its own way of ending at exit is a signal handler, which a thread may not set
cluster = ray.cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False)

def join():
    for _ in range(2):
        cluster.add_node(num_cpus=1)

joining = threading.Timer(float(sys.argv[3]), join)
joining.start()
if sys.argv[3] == "0":
    joining.join()
try:
    status = main(["compare", sys.argv[1], "--out", sys.argv[2], "--address", cluster.address])
finally:
    cluster.shutdown()
sys.exit(status)
"""


def test_records_are_written_by_another_process(
    ray_session: None, tiny: Callable[..., Study], updates_of: Callable[..., list[CellUpdate]], tmp_path: Path
) -> None:
    store, (finished, failed, *_) = Store(tmp_path), tiny().cells
    with store.writing(tiny()):
        records = SentRecords(tmp_path)
        records.keep(finished, encoded(finished, updates_of([1.0, 2.0]), provenance()))
        records.write_failure(failed, "it went wrong")
        assert store.failure(failed) == "it went wrong"
        records.clear_failure(failed)
        assert store.failure(failed) is None
    record = store.read(finished)
    assert record is not None
    assert record.updates["return"].tolist() == [1.0, 2.0]


@pytest.mark.slow
@pytest.mark.parametrize("joined_after", [0, 20], ids=lambda seconds: f"{seconds} s")
def test_a_cluster_gives_the_same_records(
    joined_after: int, ray_session: None, tiny: Callable[..., Study], tmp_path: Path
) -> None:
    """The machine that holds the folder has no CPU to spare, so that every record comes from another one."""
    study = tiny(seeds=1)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(study.to_mapping()))
    there = subprocess.run(
        [sys.executable, "-c", CLUSTER, spec, tmp_path / "cluster", str(joined_after)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert there.returncode == 0, there.stderr
    assert not run_study(study, tmp_path / "local", workers=1)
    for cell in study.cells:
        records = [Store(tmp_path / name).read(cell) for name in ("cluster", "local")]
        sent, written = (record.updates.drop(columns="wall_time") for record in records if record is not None)
        pd.testing.assert_frame_equal(sent, written, check_exact=True)


@pytest.mark.remote
def test_no_cluster_is_reported(
    tiny: Callable[..., Study], tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else is: RLlib's news of its versions stays away."""
    monkeypatch.delenv("RLLIB_TEST_NO_JAX_IMPORT", raising=False)  # of which RLlib warns
    spec = tmp_path / "spec.yaml"
    of_rllib = {"stock": System("ray.rllib.algorithms.ppo:PPO"), "A3C": System("rllib_agg:A3C")}
    study = tiny(systems=of_rllib, environments={"CartPole-v1": Environment(num_agents=4)})
    spec.write_text(yaml.safe_dump(study.to_mapping()))
    code = "import sys; from rl_agg.study.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "compare", spec, "--out", tmp_path / "out", "--address", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("rl-agg: no Ray cluster at '127.0.0.1:1'")
    assert "WARNING" not in done.stderr
    assert main(["report", str(tmp_path / "out")]) == 0  # the folder is no worse for it
