"""Temporary replacements of attributes."""

from __future__ import annotations

import pytest

from sb3_agg.patching import temporarily


class Plain:
    def step(self) -> str:
        return "own"


class Slotted:
    __slots__ = ("rate",)

    def __init__(self) -> None:
        self.rate = 1.0

    def step(self) -> str:
        return "own"


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_a_method_is_replaced_and_put_back(kind: type[Plain | Slotted]) -> None:
    item = kind()
    with temporarily(item, step=lambda: "ours"):
        assert item.step() == "ours"
        assert isinstance(item, kind)
        with temporarily(item, step=lambda: "inner"):
            assert item.step() == "inner"
        assert item.step() == "ours"
    assert item.step() == "own"
    assert type(item) is kind
