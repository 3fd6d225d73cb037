"""The wording of errors about names and settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

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
