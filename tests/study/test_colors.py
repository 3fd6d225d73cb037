"""Systems are distinguishable whatever the eyes, on a light ground and on a dark one."""

import itertools

import pytest
from vision import ciede2000, closest, contrast, lab

from rl_agg.study.report.charts import DRAWN_FIRST
from rl_agg.study.report.style import DARK, DASHES, LIGHT, OUTCOMES, spread, style_of

PALETTES = {"light": (LIGHT, "#ffffff"), "dark": (DARK, "#1c1f25")}


@pytest.mark.parametrize("ground", PALETTES)
def test_any_two_colours_look_different_to_everybody_and_stand_out(ground):
    palette, card = PALETTES[ground]
    assert len(palette) == 8
    assert min(closest(palette).values()) >= 12, closest(palette)
    assert min(contrast(color, card) for color in palette) >= 3


@pytest.mark.parametrize("at", [0, 1])
def test_outcomes_look_different_to_everybody(at):
    assert min(closest([pair[at] for pair in OUTCOMES.values()]).values()) >= 12


def test_the_second_system_and_many_more_have_dashes_of_their_own():
    styles = [style_of(number) for number in range(len(LIGHT) * len(DASHES))]
    assert len(set(styles)) == len(styles) >= 3 * DRAWN_FIRST
    assert DASHES[styles[0][1]] == ()
    assert all(DASHES[dashes] for _, dashes in styles[1 : len(DASHES)])


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((6.7747, -0.2908, -2.4247), (5.8714, -0.0985, -2.2286), 0.6377),
    ],
)
def test_differences_of_colours_are_the_published_ones(first, second, difference):
    """Sharma, Wu & Dalal (2005), table 1."""
    assert ciede2000(first, second) == pytest.approx(difference, abs=5e-5)


def test_without_a_kind_of_cone_colours_come_closer():
    red_and_green = ["#d62728", "#2ca02c"]
    assert ciede2000(*lab(red_and_green)) > 60 > 25 > ciede2000(*lab(red_and_green, "deuteranopia"))


def test_labels_move_apart_in_order_and_stay_inside():
    wanted = [0.5, 0.5, 0.51, 0.98, 1.0, 0.0]
    placed = spread(wanted, 0.1, 0.0, 1.0)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert min(gaps) >= 0.1 - 1e-9
    assert 0 <= min(placed) < max(placed) <= 1
    assert spread([0.2, 0.8], 0.1, 0.0, 1.0) == [0.2, 0.8]
    assert spread([0.5] * 30, 0.1, 0.0, 1.0) == pytest.approx([number / 29 for number in range(30)])
