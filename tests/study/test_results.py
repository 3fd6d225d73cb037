"""Rows, differences and costs against numbers worked out by hand from known records."""

import dataclasses
import math

import numpy as np
import pytest
from returns import FLAT, RAMP, rows_of, run_of

from rl_agg.study.analysis.comparisons import scores_of
from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.report.tables import comparison_frame, comparison_tables, cost_tables, tables_of
from rl_agg.study.report.verdict import verdicts
from rl_agg.study.spec.study import Budget, Environment


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
    assert tables_of(made)["Pole"][1][5] == "n/a"


def test_an_unfinished_study_shows_what_there_is(results):
    made = results({"loss": {"Pole": RAMP[:1]}, "stock": {}}, seeds=2)
    row = rows_of(made)["Pole", "loss"]
    assert row.num_seeds == 1
    assert math.isnan(row.mean_return_percent)
    assert math.isnan(row.mean_return.low)
    assert "Nothing to compare on Pole yet" in verdicts(made)[0].headline
    assert tables_of(made)["Pole"][2][:3] == ("stock", "0", "not finished")


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
    assert verdicts(made)[0].headline == (
        "No system is established to be better than stock over all 2 environments: "
        "a run of loss beats one of stock with probability 0.88, 95\u00a0% CI 0.50 to 1.00."
    )
    assert "All environments" in tables_of(made)


def test_a_system_missing_on_one_environment_is_not_pooled(results):
    made = results({"loss": {"A": FLAT}, "stock": {"A": FLAT, "B": FLAT}})
    assert [each.system for each in made.overall] == ["stock"]


def test_better_by_updates_is_not_better_by_steps(results):
    # Twice the steps in each update: ahead after as many updates, behind after as many steps
    loss = [run_of([1.0 + seed, 3.0 + seed, 5.0 + seed], steps=200) for seed in range(6)]
    stock = [run_of([0.5 + seed, 2.0 + seed, 3.5 + seed, 5.0 + seed, 6.5 + seed, 8.0 + seed]) for seed in range(6)]
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
    assert (
        verdict.headline
        == "No clear winner on Pole. Best mean: stock 6.8 (\u22121.0, 95\u00a0% CI \u22121.0 to \u22121.0) against loss."
    )
    assert "Difference from loss at equal updates: \u22121.00 [\u22121.00, \u22121.00], worse." in verdict.detail
    frame = comparison_frame(made)
    assert frame["outcome"].tolist() == ["better", "worse"]
    assert frame["difference"].tolist() == pytest.approx([1.0, -2.0])


def test_runs_without_steps_in_common_are_not_compared_at_equal_steps(results):
    loss, stock = [run_of([1.0, 2.0]) for _ in range(6)], [run_of([0.0, 1.0], steps=1000) for _ in range(6)]
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": stock}})
    by_updates, by_steps = made.comparisons("Pole", "loss", "stock")
    assert by_updates.outcome == "better"
    assert (by_steps.outcome, by_steps.doubt) == (
        "not established",
        "The runs have no env steps in common in which they finished episodes.",
    )
    assert "No clear winner" in verdicts(made)[0].headline


def test_costs_by_hand(results):
    made = results(
        {"loss": {"Pole": [run_of([2.0, 4.0], messages=3), run_of([4.0, 8.0], messages=5)]}, "stock": {"Pole": FLAT}}
    )
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


def test_a_budget_of_time_is_compared_at_equal_seconds(results):
    # As many steps in each update, but loss takes two seconds for what stock does in one
    def updates(values, seconds):
        return [CellUpdate(n, 100 * n, seconds * n, value, 1, [value] * 4, {}) for n, value in enumerate(values, 1)]

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
    assert "Difference from loss at equal seconds: 0.750 [0.750, 0.750], better." in verdict.detail
    assert "Difference from loss at equal env steps: \u22121.00 [\u22121.00, \u22121.00], worse." in verdict.detail


def test_updates_are_counted_where_a_record_is_of_several(results):
    each = [
        CellUpdate(50 * n, 100 * n, 0.5 * n, 20.0 * n, 3, [1.0, 1.0], {"agg/messages": 30 * n, "agg/bytes": 60 * n})
        for n in (1, 2)
    ]
    shorter = [dataclasses.replace(update, update=update.update // 2, mean_return=1.0) for update in each]
    made = results({"loss": {"Pole": [each, each]}, "stock": {"Pole": [shorter, shorter]}})
    loss = next(cost for cost in made.costs if cost.system == "loss")
    assert (loss.mu_frequency.value, loss.mu_size.value) == (60 / 100 / 2, 120 / 100 / 2)
    row = rows_of(made)["Pole", "loss"]
    assert (row.num_updates, row.threshold_step) == (100, 50)
    by_updates = made.comparisons("Pole", "loss", "stock")[0]
    assert by_updates.difference.value == 19  # up to update 50: the first record of one, both of the other
