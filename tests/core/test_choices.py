"""What a user is told about a name or a setting that there is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from rl_agg import COMBINERS, LOCAL_SCHEMES, RULES, Signals, Weighting
from rl_agg.combiners import Median
from rl_agg.payloads import FedAvg
from rl_agg.scheme import make_aggregation
from rl_agg.validation import build, check_settings, unknown_choice


def test_the_nearest_name_is_offered() -> None:
    error = unknown_choice("fruit", "aple", ["pear", "apple"])
    assert str(error) == "unknown fruit 'aple' (did you mean 'apple'?); choose from apple, pear"


@pytest.mark.parametrize("name", ["zzz", 3, None, ()])
def test_nothing_is_offered_for_what_is_near_to_nothing(name: Any) -> None:
    assert str(unknown_choice("fruit", name, {"pear"})) == f"unknown fruit {name!r}; choose from pear"


def plain(first: int, second: int = 2, *rest: int, third: int = 3) -> None: ...


def open_ended(first: int, **settings: int) -> None: ...


def test_settings_are_those_that_can_be_given_by_name() -> None:
    check_settings("plain", plain, {"first": 1, "second": 2, "third": 3})
    check_settings("plain", plain, {"more": 1}, also=("more",))
    check_settings("open", open_ended, {"anything": 1})
    for unknown in ("rest", "fourth"):
        message = f"plain has no setting '{unknown}'; choose from first, second, third"
        with pytest.raises(ValueError, match=re.escape(message)):
            check_settings("plain", plain, {unknown: 1})
    with pytest.raises(ValueError, match="plain has no setting 'a', 'first'; choose from second, third"):
        check_settings("plain", plain, {"first": 1, "a": 1}, given=1)
    with pytest.raises(ValueError, match="none has no setting 'x'; it has none"):
        check_settings("none", lambda: None, {"x": 1})


@dataclass
class Box:
    width: int
    height: int = 1


def test_build_says_what_is_missing() -> None:
    assert build("a box", Box, {"width": 3}) == Box(3)
    with pytest.raises(ValueError, match=re.escape("a box needs 'width', got {'height': 2}")):
        build("a box", Box, {"height": 2})
    with pytest.raises(ValueError, match="a box has no setting 'depth'; choose from height, width"):
        build("a box", Box, {"width": 1, "depth": 2})


def test_build_asks_for_no_rest() -> None:
    assert build("a mapping", lambda **settings: settings, {"a": 1}) == {"a": 1}
    assert build("a tuple", lambda *items, end=0: (*items, end), {"end": 1}) == (1,)


# What aggregation= takes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RULES, *COMBINERS, *LOCAL_SCHEMES])
def test_every_name_makes_an_aggregation(name: str) -> None:
    made = make_aggregation(name)
    kind = Weighting if name in RULES else {**COMBINERS, **LOCAL_SCHEMES}[name]
    assert type(made) is kind


def test_names_are_used_once() -> None:
    assert len({*RULES, *COMBINERS, *LOCAL_SCHEMES}) == len(RULES) + len(COMBINERS) + len(LOCAL_SCHEMES)


def test_what_is_made_already_is_taken_as_it_is_and_not_changed_by_a_run() -> None:
    for made in (Median(), FedAvg(interval=3)):
        taken = make_aggregation(made)
        assert repr(taken) == repr(made)
        assert taken is not made
        with pytest.raises(ValueError, match=re.escape(f"{made!r} has its settings already, got {{'interval': 2}} besides")):
            make_aggregation(made, {"interval": 2})


def test_a_callable_is_a_rule() -> None:
    made = make_aggregation(lambda signals: torch.ones(signals.num_agents), {"normalize": True})
    assert isinstance(made, Weighting)
    assert made(Signals(returns=[1.0, 2.0])).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("aggregation", "settings", "message"),
    [
        (
            "meen",
            None,
            "unknown aggregation 'meen' (did you mean 'mean'?); choose from actor_mean, actor_sum, fedavg, fedprox",
        ),
        ("Krum", None, "unknown aggregation 'Krum' (did you mean 'krum'?)"),
        ("mean", {"normalize": 1}, "normalize must be True or False, got 1"),
        ("median", {"normalize": True}, "median has no setting 'normalize'; it has none"),
        ("fedavg", {"h": 1}, "fedavg has no setting 'h'; choose from interval, local_epochs, moments"),
        (Median, None, "Median is a class; give Median() or its name 'median'"),
        (FedAvg, None, "FedAvg is a class; give FedAvg() or its name 'fedavg'"),
        (None, None, "a rule is a name or a callable, got None"),
    ],
)
def test_what_is_no_aggregation(aggregation: Any, settings: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_aggregation(aggregation, settings)
