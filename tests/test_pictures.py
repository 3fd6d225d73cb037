"""The pictures of README and docs are those that docs/pictures.py draws from the committed records."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="records are read by the extra study")

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(DOCS / "pictures.py"))


def test_each_picture_is_committed(script) -> None:
    names = {name for name in script["PICTURES"] if name not in script["IN_TWO_COLORS"]}
    names |= {f"{name}{color}" for name in script["IN_TWO_COLORS"] for color in ("-light", "-dark")}
    assert {file.stem for file in script["OUT"].glob("*.svg")} == names


@pytest.mark.slow
def test_pictures_show_the_records(script, tmp_path: Path) -> None:
    for name in script["PICTURES"]:
        script["draw"](name, tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (script["OUT"] / file.name).read_bytes(), file.name
