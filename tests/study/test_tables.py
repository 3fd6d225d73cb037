"""Tables for terminals and Markdown, and how numbers and names are written for reading."""

import io

import pytest
from returns import FLAT, NAN, RAMP, shifted
from rich.console import Console

from rl_agg.statistics import Estimate
from rl_agg.study.analysis.wording import in_short, in_words, listed, number, size
from rl_agg.study.report.tables import frame_of, markdown_tables, terminal_tables


def test_the_frame_holds_unrounded_numbers(results):
    frame = frame_of(results({"loss": {"Pole": RAMP}, "stock": {"Pole": FLAT}})).set_index("system")
    assert frame.loc["loss", "mean_return"] == pytest.approx(7.75)
    assert frame.loc["loss", "mean_return_low"] == pytest.approx(7.5)
    assert frame["threshold_step"].isna().all()
    assert frame["seeds_at_threshold"].tolist() == [0, 0]


def test_tables_fit_a_terminal_of_80_characters(results):
    loss, stock = [[2234.5] * 4, [2235.5] * 4], [[2001.0] * 4, [2004.0] * 4]
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": stock}})
    console = Console(width=80, file=io.StringIO())
    for table in terminal_tables(made, 80):
        console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    for shown in ("loss", "2\u202f235.0", "[2\u202f234.5, 2\u202f235.5]", "232.5", "Threshold"):
        assert shown in text


@pytest.mark.parametrize("width", [44, 80, 120, 140, 160, 220])
def test_a_terminal_table_shows_whole_names_and_numbers(results, tiny, width):
    name = "L-Weighted, softmax, h = 8"
    systems = {"stock": tiny().systems["stock"], name: tiny().systems["loss"]}
    runs = {"stock": shifted(80_000.0, 8), name: [[80_000.0 + 1000 * seed] * 4 for seed in range(8)]}
    made = results({system: {"Pole": own} for system, own in runs.items()}, systems=systems)
    console = Console(width=width, file=io.StringIO())
    (table,) = terminal_tables(made, width)
    console.print(table)
    text = console.file.getvalue()
    assert "…" not in text
    assert "stock" in text
    assert name in text or ("L-Weighted," in text and "softmax" in text)
    assert "[80\u202f012, 80\u202f015]" in text
    assert ("Threshold" in text) == (width >= 80)
    assert ("Optimality" in text) == (width >= 160)


def test_markdown_keeps_its_columns_whatever_the_names(results, tiny):
    systems = {"stock": tiny().systems["stock"], "a|b": tiny().systems["loss"]}
    made = results({"stock": {"Pole": FLAT}, "a|b": {"Pole": RAMP}}, systems=systems)
    tables = [block.splitlines() for block in markdown_tables(made).split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
        assert any("a\\|b" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "n/a"),
        (0.0, "0.00"),
        (-0.001, "\u22120.00100"),
        (-1e-9, "\u22121.00e\u22129"),
        (0.1234, "0.123"),
        (-3.14159, "\u22123.14"),
        (99.994, "99.99"),
        (1234.56, "1\u202f234.6"),
        (12345.678, "12\u202f346"),
        (1e12, "1.00e12"),
        (-1.234e-7, "\u22121.23e\u22127"),
        (-0.0, "0.00"),
    ],
)
def test_numbers_are_rounded_for_reading(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(-99.8, -105.51, -94.44), "\u221299.8 [\u2212105.5, \u221294.4]"),
        (Estimate(-0.012, -0.031, 0.019), "\u22120.0120 [\u22120.0310, 0.0190]"),
        (Estimate(0.12, NAN, NAN), "0.120"),
        (Estimate(1e12, 0.0, 2.5e12), "1.00e12 [0.00, 2.50e12]"),
    ],
)
def test_an_interval_is_written_to_its_values_digit(estimate, text):
    assert in_words(estimate) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(3.5, -12.04, 26.0), "+3.5, 95\u00a0% CI \u221212.0 to 26.0"),
        (Estimate(-338.9, -400.0, -300.0), "\u2212339, 95\u00a0% CI \u2212400 to \u2212300"),
        (Estimate(0.0, NAN, NAN), "0.0"),
    ],
)
def test_a_headline_has_a_digit_less(estimate, text):
    assert in_short(estimate, sign="+") == text


@pytest.mark.parametrize(("names", "text"), [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c")], ids=len)
def test_names_are_listed_for_reading(names, text):
    assert listed(names) == text


def test_many_names_are_counted():
    assert listed([str(n) for n in range(20)]).endswith("7, 12 more")


@pytest.mark.parametrize(
    ("count", "text"), [(NAN, "n/a"), (999, "999 B"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_bytes_have_a_unit(count, text):
    assert size(count) == text
