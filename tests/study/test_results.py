"""The tables against numbers worked out by hand from known records."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from rl_agg.study.results import results_of
from rl_agg.study.spec import Budget, Environment
from rl_agg.study.store import Store
from rl_agg.study.tables import frame_of, markdown_tables, number, tables_of, terminal_tables
from rl_agg.study.verdict import verdicts

NAN = math.nan


@pytest.fixture
def results(tmp_path, tiny, updates_of):
    """``results(records, **changes)``: of a study whose cells returned what ``records[system][environment]`` says, by seed."""

    def make(records, **changes):
        names = {name for environments in records.values() for name in environments}
        seeds = max(len(runs) for environments in records.values() for runs in environments.values())
        environments = {name: Environment(id="CartPole-v1", threshold=10) for name in sorted(names)}
        study = tiny(**({"environments": environments, "seeds": seeds, "budget": Budget(updates=4)} | changes))
        store = Store(tmp_path / "out")
        with store.writing(study):
            for cell in study.cells:
                runs = records.get(cell.system_name, {}).get(cell.environment_name, [])
                if cell.seed < len(runs):
                    store.write(cell, updates_of(runs[cell.seed]))
        return results_of(store)

    return make


def rows_of(results):
    return {(row.environment, row.system): row for row in results.rows}


RAMP = [[NAN, 4.0, 8.0, 12.0], [2.0, 2.0, 6.0, 20.0]]  # means 8 and 7.5; ends (half) 10 and 13
FLAT = [[5.0] * 4, [6.0] * 4]


def test_each_number_of_a_row(results):
    row = rows_of(results({"loss": {"Pole": RAMP}, "stock": {"Pole": FLAT}}, end_share=0.5))["Pole", "loss"]
    assert (row.num_seeds, row.num_updates) == (2, 4)
    assert row.mean_return.value == pytest.approx(7.75)
    assert row.end_return.value == pytest.approx(11.5)
    assert row.mean_return_percent == pytest.approx(100 * 7.75 / 5.5)
    assert row.end_return_percent == pytest.approx(100 * 11.5 / 5.5)
    assert row.variance == pytest.approx(np.var([8.0, 7.5], ddof=1))
    assert row.iqm.value == pytest.approx(7.75)
    assert (row.mean_return.low, row.mean_return.high) == pytest.approx((7.5, 8.0))
    assert row.improvement.value == 1.0
    # Mean curve 2, 3, 7, 16: scores 2, 2.1, 2.59, 3.931, below 10
    assert (row.threshold_step, row.seeds_at_threshold) == (None, 0)


def test_the_threshold_is_of_the_mean_curve_and_of_each_run(results):
    runs = [[10.0] * 4, [0.0, 0.0, 0.0, 0.0]]
    row = rows_of(results({"stock": {"Pole": runs}}))["Pole", "stock"]
    assert (row.threshold_step, row.seeds_at_threshold) == (None, 1)
    both = [[0.0, 100.0, 100.0, 0.0], [20.0, 100.0, 100.0, 0.0]]
    row = rows_of(results({"stock": {"Pole": both}}, name="again", seeds=2))["Pole", "stock"]
    assert (row.threshold_step, row.seeds_at_threshold) == (1, 2)


def test_without_a_threshold_nothing_is_said_about_it(results):
    made = results({"stock": {"Pole": FLAT}}, environments={"Pole": Environment(id="CartPole-v1")})
    assert tables_of(made)["Pole"][1][6] == "n/a"


def test_an_unfinished_study_shows_what_there_is(results):
    made = results({"loss": {"Pole": RAMP[:1]}, "stock": {}}, seeds=2)
    row = rows_of(made)["Pole", "loss"]
    assert row.num_seeds == 1
    assert math.isnan(row.mean_return_percent)
    assert math.isnan(row.mean_return.low)
    assert "nothing to compare" in verdicts(made)[0].headline


def test_a_study_without_a_finished_run(results):
    made = results({"stock": {"Pole": []}}, seeds=2)
    assert [verdict.headline for verdict in verdicts(made)] == ["No run has finished yet."]
    assert not frame_of(made).size


def test_no_episode_at_all(results):
    made = results({"stock": {"Pole": [[NAN] * 4] * 2}, "loss": {"Pole": [[NAN] * 4] * 2}})
    assert "no run has finished an episode" in verdicts(made)[0].headline
    assert tables_of(made)["Pole"][1][2] == "n/a"


def shifted(by, seeds):
    return [[10.0 + seed + by] * 4 for seed in range(seeds)]


@pytest.mark.parametrize(
    ("loss", "headline", "detail"),
    [
        (shifted(3.0, 6), "Pole: established that loss is better than stock.", "3.00 above stock (124.0 %)"),
        (shifted(-3.0, 6), "Pole: established that stock is better than loss.", "3.00 above loss"),
        (shifted(3.0, 5), "not established that loss is better", "5 seeds agree by chance in 6 % of studies"),
        ([[9.0] * 4, *shifted(0.5, 6)[1:]], "not established that loss is better", "The interval includes 0"),
        (shifted(3.0, 1), "not established that loss is better", "fewer than two seeds in common"),
    ],
    ids=["better", "worse", "too few seeds", "interval includes zero", "one seed"],
)
def test_the_verdict_says_what_is_established(results, loss, headline, detail):
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": shifted(0.0, 6)}})
    (verdict,) = verdicts(made)
    assert headline in verdict.headline
    assert detail in verdict.detail


def test_several_environments_are_scaled_before_they_are_pooled(results):
    made = results(
        {
            "loss": {"A": [[4.0] * 4, [2.0] * 4], "B": [[400.0] * 4, [200.0] * 4]},
            "stock": {"A": [[0.0] * 4, [2.0] * 4], "B": [[0.0] * 4, [200.0] * 4]},
        }
    )
    loss, stock = sorted(made.overall, key=lambda each: each.system)
    assert loss.iqm.value == pytest.approx(0.75)  # 1, 0.5, 1, 0.5
    assert stock.iqm.value == pytest.approx(0.25)
    assert loss.improvement.value == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert math.isnan(stock.improvement.value)
    assert verdicts(made)[-1].headline == "All 2 environments together: not established that any system is better than stock."
    assert "All environments" in tables_of(made)


def test_a_system_missing_on_one_environment_is_not_pooled(results):
    made = results({"loss": {"A": FLAT}, "stock": {"A": FLAT, "B": FLAT}})
    assert [each.system for each in made.overall] == ["stock"]


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
    for shown in ("loss", "2\u202f235.0", "[2\u202f234.5, 2\u202f235.5]", "111.6", "Threshold"):
        assert shown in text


def test_markdown_keeps_its_columns_whatever_the_names(results, tiny):
    systems = {"stock": tiny().systems["stock"], "a|b": tiny().systems["loss"]}
    made = results({"stock": {"Pole": FLAT}, "a|b": {"Pole": RAMP}}, systems=systems)
    lines = [line for line in markdown_tables(made).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert any("a\\|b" in line for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "n/a"),
        (0.0, "0.00"),
        (-3.14159, "\u22123.14"),
        (99.994, "99.99"),
        (1234.56, "1\u202f234.6"),
        (12345.678, "12\u202f346"),
    ],
)
def test_numbers_are_rounded_for_reading(value, text):
    assert number(value) == text
