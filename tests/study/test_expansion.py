"""Entries of a study that stand for several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.expansion import expand
from rl_agg.study.spec.loading import load_study


def test_one_entry_for_each_combination() -> None:
    entries = {
        "{rule}, h = {h}": {
            "matrix": {"rule": ["r_weighted", "l_weighted"], "h": [2, 0.5]},
            "system": "sb3_agg:AggPPO",
            "settings": {"aggregation": "{rule}", "aggregation_kwargs": {"h": "{h}"}, "tags": ["at {h}", 3]},
        },
        "other": {"system": "a:B"},
    }
    expanded = expand(entries, "systems")
    assert list(expanded) == ["r_weighted, h = 2", "r_weighted, h = 0.5", "l_weighted, h = 2", "l_weighted, h = 0.5", "other"]
    assert expanded["l_weighted, h = 0.5"] == {
        "system": "sb3_agg:AggPPO",
        "settings": {"aggregation": "l_weighted", "aggregation_kwargs": {"h": 0.5}, "tags": ["at 0.5", 3]},
    }
    assert expanded["other"] == {"system": "a:B"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"matrix": [1, 2]}, "systems.a {h}.matrix must be a mapping of names to lists of values, got \\[1, 2\\]"),
        ({"matrix": {"h": 3}}, "must be a mapping of names to lists"),
        ({"matrix": {"h": []}}, "must be a mapping of names to lists"),
        ({"matrix": {}}, "must be a mapping of names to lists"),
        (
            {"matrix": {"h": [1]}, "settings": {"x": "{hh}"}},
            "systems.a {h}.settings.x: unknown placeholder 'hh' .did you mean 'h'",
        ),
        ({"matrix": {"h": [1], "k": [1, 2]}}, "'a 1' comes twice; name every value of the matrix in it"),
        ({"matrix": {"h": [1, 2]}, "settings": {"x": 1}}, "'h' is used in the name alone, so its values make identical"),
        ({"matrix": {1: [2]}}, "must be a mapping of names"),
        ({"matrix": {"h": [[1]]}, "settings": {"{h}": 3}}, r"settings: a name must be text, got \[1\] for '{h}'"),
    ],
)
def test_what_cannot_be_expanded_is_an_error(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        expand({"a {h}": entry}, "systems")


def test_a_name_that_is_nothing_but_a_place_is_text() -> None:
    assert list(expand({"{h}": {"matrix": {"h": [2, 0.5]}}}, "environments")) == ["2", "0.5"]


def test_a_study_with_a_matrix_of_systems_and_environments(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        """
name: h
baseline: h = 2
systems:
  "h = {h}":
    matrix: {h: [2, 8]}
    system: sb3_agg:AggPPO
    settings: {aggregation: l_weighted, aggregation_kwargs: {h: "{h}"}}
environments:
  CartPole, {network}: {matrix: {network: [small, large]}, id: CartPole-v1, network: "{network}"}
budget: {updates: 1}
"""
    )
    study = load_study(spec)
    assert list(study.environments) == ["CartPole, small", "CartPole, large"]
    assert study.systems["h = 8"].settings["aggregation_kwargs"] == {"h": 8}
    assert len(study.cells) == 4
