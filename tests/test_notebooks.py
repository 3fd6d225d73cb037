"""The notebooks run from their first cell to their last, at small size, and show what they promise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "examples" / "notebooks"


def run(name: str, **sizes: int) -> dict[str, Any]:
    """The names that a notebook leaves, with constants of its first cell changed."""
    source = (NOTEBOOKS / name).read_text(encoding="utf-8")
    for constant, size in sizes.items():
        source, found = re.subn(rf"^{constant} = [\d_]+$", f"{constant} = {size}", source, flags=re.MULTILINE)
        assert found == 1, constant
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def _no_windows(monkeypatch: pytest.MonkeyPatch):
    plt.switch_backend("agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.py")), ids=lambda notebook: notebook.name)
def test_a_notebook_begins_with_its_title_and_is_listed(notebook: Path) -> None:
    assert notebook.read_text().startswith("# %% [markdown]\n# # ")
    assert f"../examples/notebooks/{notebook.name}" in (NOTEBOOKS.parents[1] / "docs" / "examples.md").read_text()


def test_stable_baselines3(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    names = run("sb3.py", TOTAL_TIMESTEPS=12_288)
    (mean, mean_curve), (_, median_curve) = names["runs"]["mean"], names["runs"]["median"]
    assert mean.aggregation == "mean"
    assert mean_curve.returns[-1] < median_curve.returns[-1]
    assert len(names["axes"].lines) == 2
    assert "median, deployed: return" in capsys.readouterr().out


@pytest.mark.remote
def test_study(ray_session: None, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    names = run("study.py", UPDATES=2)
    assert {row.system for row in names["results"].rows} == {"mean", "R-Weighted"}
    assert "R-Weighted - mean: " in capsys.readouterr().out
    assert (names["FOLDER"] / "report.html").exists()


@pytest.mark.remote
def test_rllib(ray_session: None) -> None:
    names = run("rllib.py", ITERATIONS=2)
    assert len(names["returns"]) == 2
    assert all(low <= high for low, high in zip(names["smallest"], names["largest"], strict=True))
