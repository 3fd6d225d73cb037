"""What the twelve systems end at is what was recorded before the code moved: to the bit on the machine that recorded it."""

from __future__ import annotations

import json

import pytest

from tests.contract.record import RECORDS, machine, summary
from tests.contract.systems import SYSTEMS, run

RECORDED = json.loads(RECORDS.read_text())


@pytest.mark.parametrize("name", sorted(SYSTEMS))
def test_a_system_ends_where_it_ended(name: str, ray_session: None) -> None:
    found, recorded = summary(run(name)), RECORDED["systems"][name]
    if machine() == RECORDED["machine"]:
        assert found == recorded
        return
    assert found.keys() == recorded.keys()
    for part, expected in recorded.items():
        assert found[part]["size"] == expected["size"]
        assert [found[part]["sum"], found[part]["norm"]] == pytest.approx([expected["sum"], expected["norm"]], rel=1e-2)
