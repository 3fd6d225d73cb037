"""Settings of combiners, gates and attacks that are refused or taken."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from matrix_runs import AGENTS, STEPS, build

from rl_agg.attacks import Attack
from rl_agg.combiners import Median

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "krumm"}, "unknown aggregation 'krumm' (did you mean 'krum'?); choose from actor_mean"),
        ({"aggregation": "krum", "aggregation_kwargs": {"f": 1}}, "krum has no setting 'f'; choose from num_byzantine"),
        (
            {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 2}},
            "krum with num_byzantine=2 needs more than 5 ag",
        ),
        ({"aggregation": "krum", "aggregation_kwargs": {"num_selected": 6}}, "krum cannot select num_selected=6 of 5 agents"),
        ({"aggregation": "trimmed_mean", "aggregation_kwargs": {"num_byzantine": 3}}, "which allow at most 2"),
        ({"aggregation": "geometric_median", "aggregation_kwargs": {"smoothing": 0}}, "smoothing must be a finite number > 0"),
        ({"aggregation": "mixtailor", "aggregation_kwargs": {"combiners": ["mean"]}}, "unknown combiner 'mean'"),
        ({"aggregation": "median", "aggregation_kwargs": {"normalize": True}}, "median has no setting 'normalize'"),
        ({"aggregation": Median(), "aggregation_kwargs": {"a": 1}}, "Median() has its settings already, got {'a': 1} besides"),
        ({"aggregation": Median}, "Median is a class; give Median() or its name 'median'"),
        ({"aggregation": "torchjd:UPGard"}, "unknown TorchJD aggregator 'UPGard' (did you mean 'UPGrad'?)"),
        ({"aggregation": "torchjd:Krum", "aggregation_kwargs": {"n_byzantine": 3}}, "cannot combine 5 agents"),
        ({"communication": "lagg"}, "unknown communication 'lagg' (did you mean 'lag'?); choose from every, lag"),
        ({"communication_kwargs": {"xi": 1}}, "every has no setting 'xi'; it has none"),
        ({"communication": "lag", "communication_kwargs": {"xi": -1}}, "xi must be a finite number >= 0, got -1"),
        (
            {"communication": "lag", "communication_kwargs": {"horizon": 1}},
            "lag has no setting 'horizon'; choose from window, xi",
        ),
        ({"attack": {"kind": "flip", "agents": [0]}}, "unknown attack 'flip' (did you mean 'sign_flip'?); choose from nan"),
        ({"attack": {"kind": "nan"}}, "attack needs 'agents', got {'kind': 'nan'}"),
        (
            {"attack": {"kind": "nan", "agents": [0], "size": 3}},
            "attack has no setting 'size'; choose from agents, kind, scale, seed",
        ),
        ({"attack": {"kind": "nan", "agents": [5]}}, "agent 5 cannot attack: agents are numbered 0 to 4"),
        ({"attack": Attack("nan", [7])}, "agent 7 cannot attack: agents are numbered 0 to 4"),
        ({"attack": "nan"}, "attack must be an Attack or a dict of its settings, got 'nan'"),
    ],
)
def test_bad_settings_are_refused_at_the_door(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build("discrete", **settings)
    assert "\n" not in str(caught.value)


def test_good_settings_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build("discrete", aggregation="median", communication="lag").learn(STEPS * AGENTS)
