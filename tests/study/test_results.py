"""The tables against numbers worked out by hand from known records."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from rl_agg.statistics import Estimate
from rl_agg.study.cells import Update
from rl_agg.study.comparisons import scores_of
from rl_agg.study.results import results_of
from rl_agg.study.spec import Budget, Environment
from rl_agg.study.store import Store
from rl_agg.study.story import notes
from rl_agg.study.tables import (
    comparison_frame,
    comparison_tables,
    cost_tables,
    frame_of,
    markdown_tables,
    tables_of,
    terminal_tables,
)
from rl_agg.study.verdict import verdicts
from rl_agg.study.wording import in_words, listed, number, size

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
                    run = runs[cell.seed]
                    store.write(cell, updates_of(run) if isinstance(run[0], float) else run)
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
    some = results({"loss": {"Pole": RAMP}, "stock": {"Pole": FLAT}})
    for frame in (frame_of, comparison_frame):
        assert frame(made).columns.tolist() == frame(some).columns.tolist()


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
        (shifted(3.0, 1), "not established that loss is better", "fewer than two pairs of runs"),
    ],
    ids=["better", "worse", "too few seeds", "interval includes zero", "one seed"],
)
def test_the_verdict_says_what_is_established(results, loss, headline, detail):
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": shifted(0.0, 6)}})
    (verdict,) = verdicts(made)
    assert headline in verdict.headline
    assert detail in verdict.detail


def test_the_verdict_tells_a_mean_return_as_its_table_does(results):
    made = results({"loss": {"Pole": [[60.0] * 4, [130.0] * 4]}, "stock": {"Pole": FLAT}})
    told = tables_of(made)["Pole"][1][2].partition(" [")[0]
    assert told == "95.0"  # not 95.00: its interval ends above 100
    assert f"R̄ = {told}:" in verdicts(made)[0].detail


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
    assert verdicts(made)[0].headline == "All 2 environments together: not established that any system is better than stock."
    assert "All environments" in tables_of(made)


def test_a_system_missing_on_one_environment_is_not_pooled(results):
    made = results({"loss": {"A": FLAT}, "stock": {"A": FLAT, "B": FLAT}})
    assert [each.system for each in made.overall] == ["stock"]


def test_without_the_baseline_everywhere_nothing_is_said_of_all_environments(results):
    ahead, behind = [[9.0 + seed] * 4 for seed in range(6)], [[1.0 + seed] * 4 for seed in range(6)]
    made = results({"loss": {"A": ahead, "B": ahead}, "stock": {"A": behind}})
    assert [each.system for each in made.overall] == ["loss"]
    assert math.isnan(made.overall[0].improvement.value)
    assert not [verdict for verdict in verdicts(made) if "together" in verdict.headline]


def test_an_interval_is_named_only_where_there_is_one(results):
    runs = [[9.0 + seed] * 4 for seed in range(6)]
    made = results({"loss": {"A": runs, "B": runs}, "stock": {"A": runs, "B": runs[:1]}})
    assert math.isnan(made.overall[0].improvement.low)
    assert verdicts(made)[0].detail.endswith("(12 runs).")
    assert (
        "(95 % interval, 12 runs)."
        in verdicts(results({name: {"A": runs, "B": runs} for name in ("loss", "stock")}))[0].detail
    )


def test_the_highest_mean_return_is_not_told_as_a_lead_where_runs_are_not_as_long(results):
    # Over all of its updates loss returns more, over as many as stock has less
    loss = [told([0.0 + seed, 2.0 + seed, 40.0 + seed, 42.0 + seed]) for seed in range(6)]
    stock = [told([9.0 + seed, 11.0 + seed], steps=200) for seed in range(6)]
    (verdict,) = verdicts(results({"loss": {"Pole": loss}, "stock": {"Pole": stock}}))
    assert (
        "loss has the highest mean return over training, R̄ = 23.50. At equal updates it is 9.00 below stock" in verdict.detail
    )


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


def test_runs_without_an_episode_are_told(results):
    made = results({"loss": {"Pole": [*[[NAN] * 4] * 5, *RAMP]}, "stock": {"Pole": FLAT}})
    assert notes(made) == ["5 of 7 runs of loss on Pole finished no episode: its returns are told without them."]


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
        (-1e-9, "0.00"),
        (0.1234, "0.123"),
        (-3.14159, "\u22123.14"),
        (99.994, "99.99"),
        (1234.56, "1\u202f234.6"),
        (12345.678, "12\u202f346"),
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
    ],
)
def test_an_interval_is_told_to_its_values_digit(estimate, text):
    assert in_words(estimate) == text


def told(values, steps=100, messages=None):
    """A run whose updates take this many steps, and send this many messages of 10 bytes."""
    scalars = [
        {} if messages is None else {"agg/messages": messages * n, "agg/bytes": 10 * messages * n, "agg/mu_reward": value / 2}
        for n, value in enumerate(values, 1)
    ]
    return [
        Update(n, steps * n, float(n), value, 1, [value] * 4, scalar)
        for n, (value, scalar) in enumerate(zip(values, scalars, strict=True), 1)
    ]


def test_better_by_updates_is_not_better_by_steps(results):
    # Twice the steps in each update: ahead after as many updates, behind after as many steps
    loss = [told([1.0 + seed, 3.0 + seed, 5.0 + seed], steps=200) for seed in range(6)]
    stock = [told([0.5 + seed, 2.0 + seed, 3.5 + seed, 5.0 + seed, 6.5 + seed, 8.0 + seed]) for seed in range(6)]
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": stock}})
    by_updates, by_steps = made.comparisons("Pole", "loss", "stock")
    assert by_updates.difference.value == pytest.approx(3.0 - 2.0)
    # From step 200 to 600: 1, 3, 5 against 2, 3.5, 5, 6.5, 8, both on straight lines
    scores = scores_of([made.runs["Pole"]["loss"], made.runs["Pole"]["stock"]], made.bases("Pole"))
    assert (scores[1].low, scores[1].high) == (200.0, 600.0)
    assert by_steps.difference.value == pytest.approx(3.0 - 5.0)
    assert (by_updates.outcome, by_steps.outcome) == ("better", "worse")
    assert comparison_tables(made)["Pole"][1][-1] == "better at equal updates; worse at equal env steps"
    (verdict,) = verdicts(made)
    assert verdict.headline == "Pole: not established that stock is better than loss."
    assert "At equal updates: it is worse." in verdict.detail
    frame = comparison_frame(made)
    assert frame["outcome"].tolist() == ["better", "worse"]
    assert frame["difference"].tolist() == pytest.approx([1.0, -2.0])


def test_runs_without_steps_in_common_are_not_compared_at_equal_steps(results):
    loss, stock = [told([1.0, 2.0]) for _ in range(6)], [told([0.0, 1.0], steps=1000) for _ in range(6)]
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": stock}})
    by_updates, by_steps = made.comparisons("Pole", "loss", "stock")
    assert by_updates.outcome == "better"
    assert (by_steps.outcome, by_steps.doubt) == (
        "not established",
        "The runs have no env steps in common in which they finished episodes.",
    )
    assert "not established" in verdicts(made)[0].headline


def test_what_is_established_about_the_others_is_said(results, tiny):
    systems = dict.fromkeys(["stock", "close", "far"], tiny().systems["loss"])
    records = {
        "stock": {"Pole": shifted(0.0, 6)},
        "close": {"Pole": [*shifted(2.0, 5), [0.0] * 4]},
        "far": {"Pole": shifted(-5.0, 6)},
    }
    made = results(records, systems=systems)
    (verdict,) = verdicts(made)
    assert verdict.headline == "Pole: not established that stock is better than close."
    assert "Established: it is better than far." in verdict.detail
    assert [row.system for row in made.rows] == ["stock", "close", "far"]


def test_costs_by_hand(results):
    made = results({"loss": {"Pole": [told([2.0, 4.0], messages=3), told([4.0, 8.0], messages=5)]}, "stock": {"Pole": FLAT}})
    loss, stock = sorted(made.costs, key=lambda cost: cost.system)
    assert (loss.messages, loss.bytes) == (8.0, 80.0)
    assert loss.mu_frequency.value == pytest.approx((3 / 4 + 5 / 4) / 2)
    assert loss.mu_size.value == pytest.approx(10 * loss.mu_frequency.value)
    assert loss.mu_reward.value == pytest.approx((1.5 + 3.0) / 2)
    assert math.isnan(stock.messages)
    assert math.isnan(loss.win_rate.value)
    headings, *lines = cost_tables(made)["Pole"]
    assert "Win rate" not in headings
    assert {line[headings.index("Messages")] for line in lines} == {"8", "n/a"}


def test_the_optimality_gap_is_what_is_missing_to_the_threshold(results):
    records = {"loss": {"Pole": [[6.0] * 4, [12.0] * 4]}, "stock": {"Pole": [[2.0] * 4, [4.0] * 4]}}
    rows = rows_of(results(records))  # the worst run is 2, the threshold 10
    assert rows["Pole", "loss"].optimality_gap.value == pytest.approx((0.5 + 0.0) / 2)
    assert rows["Pole", "stock"].optimality_gap.value == pytest.approx((1.0 + 0.75) / 2)


@pytest.mark.parametrize("other", [10.1, 500.0])
def test_there_is_no_gap_where_all_runs_are_as_far(results, other):
    rows = rows_of(results({"loss": {"Pole": [[other] * 4]}, "stock": {"Pole": [[500.0] * 4]}}))
    assert [row.optimality_gap.value for row in rows.values()] == [0, 0]


def test_a_third_systems_short_run_costs_a_pair_nothing(results, tiny):
    runs = {"loss": [[5.0 + seed] * 4 for seed in range(6)], "stock": [[1.0 + seed] * 4 for seed in range(6)]}
    systems = tiny().systems | {"cut": tiny().systems["loss"]}
    records = {name: {"Pole": own} for name, own in runs.items()} | {"cut": {"Pole": [[NAN]]}}
    made = results(records, systems=systems)
    assert [pair.outcome for pair in made.comparisons("Pole", "loss", "stock")] == ["better", "better"]
    (verdict,) = verdicts(made)
    assert verdict.headline == "Pole: established that loss is better than stock."


def test_a_budget_of_time_is_compared_at_equal_seconds(results):
    # As many steps in each update, but loss takes two seconds for what stock does in one
    def updates(values, seconds):
        return [Update(n, 100 * n, seconds * n, value, 1, [value] * 4, {}) for n, value in enumerate(values, 1)]

    loss = [updates([2.0 + seed, 4.0 + seed, 6.0 + seed], 2.0) for seed in range(6)]
    stock = [updates([1.0 + seed, 3.0 + seed, 5.0 + seed, 5.0 + seed, 5.0 + seed, 5.0 + seed], 1.0) for seed in range(6)]
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": stock}}, budget=Budget(seconds=6))
    by_seconds, by_steps = made.comparisons("Pole", "loss", "stock")
    # From second 2 to 6: a line from 2 to 6 against 3, 5, 5, 5, 5; from step 100 to 300: 2, 4, 6 against 1, 3, 5
    assert (by_seconds.basis, by_seconds.outcome, by_seconds.difference.value) == ("seconds", "worse", pytest.approx(4 - 4.75))
    assert (by_steps.basis, by_steps.outcome, by_steps.difference.value) == ("env steps", "better", pytest.approx(1.0))
    table = comparison_tables(made)["Pole"]
    assert table[0] == ("System", "At equal seconds", "At equal env steps", "In words")
    assert table[1][-1] == "worse at equal seconds; better at equal env steps"
    (verdict,) = verdicts(made)
    assert "At equal seconds it is 0.750 above loss" in verdict.detail
    assert "At equal env steps it is 1.00 below loss" in verdict.detail


def test_a_claim_about_all_environments_must_hold_on_both_bases(results):
    # One learning curve over steps, but half as many updates of twice the steps: ahead at equal updates only
    loss = [told([2.0 + seed / 10, 4.0 + seed / 10, 6.0 + seed / 10], steps=200) for seed in range(6)]
    stock = [told([1.0 + seed / 10, 2.0 + seed / 10, 3.0 + seed / 10, 4.0 + seed / 10]) for seed in range(6)]
    made = results({"loss": {"A": loss, "B": loss}, "stock": {"A": stock, "B": stock}})
    assert made.overall[0].improvement.low > 0.5
    assert verdicts(made)[0].headline == "All 2 environments together: not established that any system is better than stock."


def test_a_claim_about_all_environments_needs_three_seeds_of_each(results):
    def made(seeds):
        better, worse = [[9.0 + seed] * 4 for seed in range(seeds)], [[1.0 + seed] * 4 for seed in range(seeds)]
        names = [f"{number}" for number in range(3)]
        return verdicts(results({"loss": dict.fromkeys(names, better), "stock": dict.fromkeys(names, worse)}))[0].headline

    assert made(2) == "All 3 environments together: not established that any system is better than stock."


def test_a_claim_about_all_environments(results):
    better, worse = [[9.0 + seed] * 4 for seed in range(3)], [[1.0 + seed] * 4 for seed in range(3)]
    made = results({"loss": {"A": better, "B": better}, "stock": {"A": worse, "B": worse}})
    assert verdicts(made)[0].headline == "All 2 environments together: loss is better than stock."


@pytest.mark.parametrize(
    ("names", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")], ids=len
)
def test_names_are_listed_for_reading(names, text):
    assert listed(names) == text


def test_many_names_are_counted():
    assert listed([str(n) for n in range(20)]).endswith("7 and 12 more")


@pytest.mark.parametrize(
    ("count", "text"), [(NAN, "n/a"), (999, "999 B"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3e12, "3\u202f000.0 GB")]
)
def test_bytes_have_a_unit(count, text):
    assert size(count) == text
