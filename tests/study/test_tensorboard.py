"""Records as TensorBoard events, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from returns import keep
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.analysis.results import results_of
from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.report.tensorboard import write_events
from rl_agg.study.spec.study import Study


def test_each_cell_is_a_run(tmp_path: Path, tiny: Callable[..., Study], updates_of: Callable[..., list[CellUpdate]]) -> None:
    store = Store(tmp_path)
    first, second, *_ = tiny().cells
    with store.writing(tiny()):
        keep(store, first, updates_of([math.nan, 4.0, 8.0]))
        keep(store, second, updates_of([1.0]))
    for _ in range(2):  # the second time replaces the first
        folder = write_events(results_of(store), tmp_path)
    assert {path.name for path in folder.iterdir()} == {first.id, second.id}
    assert len(list((folder / first.id).iterdir())) == 1
    events: Any = EventAccumulator(str(folder / first.id))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"wall_time", "return", "episodes", "agg/weight_max"}
    assert [(event.step, event.value, event.wall_time) for event in events.Scalars("return")] == [
        (200, 4.0, 1.0),
        (300, 8.0, 1.5),
    ]
    assert [event.value for event in events.Scalars("agg/weight_max")] == [1.0, 1.0, 1.0]


def test_a_link_is_not_followed(tmp_path: Path, tiny: Callable[..., Study]) -> None:
    store = Store(tmp_path / "out")
    with store.writing(tiny()):
        pass
    results = results_of(store)
    (tmp_path / "out" / "tensorboard").symlink_to(tmp_path)
    with pytest.raises(StudyError, match="tensorboard is a link"):
        write_events(results, tmp_path / "out")
