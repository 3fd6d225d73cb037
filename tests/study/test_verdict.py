"""What a study says is established, in words."""

import math
import re

import pytest
from returns import FLAT, NAN, RAMP, run_of, shifted

from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.report.story import notes
from rl_agg.study.report.tables import comparison_frame, frame_of, tables_of
from rl_agg.study.report.verdict import verdicts


def test_a_study_without_a_finished_run(results):
    made = results({"stock": {"Pole": []}}, seeds=2)
    assert [verdict.headline for verdict in verdicts(made)] == ["No run has finished yet."]
    assert not frame_of(made).size
    some = results({"loss": {"Pole": RAMP}, "stock": {"Pole": FLAT}})
    for frame in (frame_of, comparison_frame):
        assert frame(made).columns.tolist() == frame(some).columns.tolist()


def test_no_episode_at_all(results):
    made = results({"stock": {"Pole": [[NAN] * 4] * 2}, "loss": {"Pole": [[NAN] * 4] * 2}})
    assert "No run has finished an episode" in verdicts(made)[0].headline
    assert tables_of(made)["Pole"][1][2] == "n/a"


def test_returns_that_are_no_numbers_are_not_reported_as_missing_episodes(results):
    lost = [CellUpdate(1, 100, 1.0, NAN, 3, [math.inf] * 4)]
    made = results({"stock": {"Pole": [lost] * 2}, "loss": {"Pole": [lost] * 2}})
    assert "No return on Pole counts: all are NaN, infinite" in verdicts(made)[0].headline
    assert "2 of 2 runs of stock on Pole have no finite return; the numbers leave them out." in notes(made)


@pytest.mark.parametrize(
    ("loss", "headline", "detail"),
    [
        (
            shifted(3.0, 6),
            "loss is better than stock on Pole: mean return 15.5 (+3.0, 95\u00a0% CI 3.0 to 3.0).",
            "Difference from stock at equal updates: 3.00 [3.00, 3.00], better.",
        ),
        (
            shifted(-3.0, 6),
            "stock is better than loss on Pole: mean return 12.5 (+3.0, 95\u00a0% CI 3.0 to 3.0).",
            "Difference from loss at equal updates: 3.00 [3.00, 3.00], better.",
        ),
        (
            shifted(3.0, 5),
            "No clear winner on Pole. Best mean: loss 15.0 (+3.0, 95\u00a0% CI",
            "5 seeds agree by chance in 6 % of studies",
        ),
        ([[9.0] * 4, *shifted(0.5, 6)[1:]], "No clear winner on Pole. Best mean: loss", "The interval includes 0"),
        (
            shifted(3.0, 1),
            "Best mean: loss 13.0 (+3.0) against stock.",
            "fewer than two pairs of runs",
        ),
    ],
    ids=["better", "worse", "too few seeds", "interval includes zero", "one seed"],
)
def test_the_verdict_says_what_is_established(results, loss, headline, detail):
    made = results({"loss": {"Pole": loss}, "stock": {"Pole": shifted(0.0, 6)}})
    (verdict,) = verdicts(made)
    assert headline in verdict.headline
    assert detail in verdict.detail


def test_the_verdict_goes_by_what_the_table_shows(results):
    made = results({"loss": {"Pole": [[60.0] * 4, [130.0] * 4]}, "stock": {"Pole": FLAT}})
    shown = tables_of(made)["Pole"][1][2].partition(" [")[0]
    assert shown == "95.0"  # not 95.00: its interval ends above 100
    assert f"Best mean: loss {shown} (+90, " in verdicts(made)[0].headline  # an interval that ends above 100


def test_without_the_baseline_everywhere_nothing_is_said_of_all_environments(results):
    ahead, behind = [[9.0 + seed] * 4 for seed in range(6)], [[1.0 + seed] * 4 for seed in range(6)]
    made = results({"loss": {"A": ahead, "B": ahead}, "stock": {"A": behind}})
    assert [each.system for each in made.overall] == ["loss"]
    assert math.isnan(made.overall[0].improvement.value)
    assert not [verdict for verdict in verdicts(made) if "all 2" in verdict.headline]


def test_an_interval_is_named_only_where_there_is_one(results):
    runs = [[9.0 + seed] * 4 for seed in range(6)]
    made = results({"loss": {"A": runs, "B": runs}, "stock": {"A": runs, "B": runs[:1]}})
    assert math.isnan(made.overall[0].improvement.low)
    assert verdicts(made)[0].headline.endswith("a run of loss beats one of stock with probability 0.71.")
    assert "from 12 runs" in verdicts(made)[0].detail
    both = results({name: {"A": runs, "B": runs} for name in ("loss", "stock")})
    assert re.search(r"probability 0\.50, 95\u00a0% CI 0\.\d\d to 0\.\d\d\.$", verdicts(both)[0].headline)


def test_the_highest_mean_return_is_not_reported_as_a_lead_where_runs_are_not_as_long(results):
    # Over all of its updates loss returns more, over as many as stock has less
    loss = [run_of([0.0 + seed, 2.0 + seed, 40.0 + seed, 42.0 + seed]) for seed in range(6)]
    stock = [run_of([9.0 + seed, 11.0 + seed], steps=200) for seed in range(6)]
    (verdict,) = verdicts(results({"loss": {"Pole": loss}, "stock": {"Pole": stock}}))
    assert "Best mean: loss 23.5 (\u22129.0," in verdict.headline
    assert "Difference from stock at equal updates: \u22129.00 [" in verdict.detail


def test_runs_without_an_episode_are_reported(results):
    made = results({"loss": {"Pole": [*[[NAN] * 4] * 5, *RAMP]}, "stock": {"Pole": FLAT}})
    assert notes(made) == ["5 of 7 runs of loss on Pole finished no episode; the numbers leave them out."]


def test_what_is_established_about_the_others_is_said(results, tiny):
    systems = dict.fromkeys(["stock", "close", "far"], tiny().systems["loss"])
    records = {
        "stock": {"Pole": shifted(0.0, 6)},
        "close": {"Pole": [*shifted(2.0, 5), [0.0] * 4]},
        "far": {"Pole": shifted(-5.0, 6)},
    }
    made = results(records, systems=systems)
    (verdict,) = verdicts(made)
    assert verdict.headline.startswith("No clear winner on Pole. Best mean: stock 12.5 (")
    assert verdict.headline.endswith(") against close.")
    assert "Established: better than far." in verdict.detail
    assert [row.system for row in made.rows] == ["stock", "close", "far"]


def test_a_third_systems_short_run_costs_a_pair_nothing(results, tiny):
    runs = {"loss": [[5.0 + seed] * 4 for seed in range(6)], "stock": [[1.0 + seed] * 4 for seed in range(6)]}
    systems = tiny().systems | {"cut": tiny().systems["loss"]}
    records = {name: {"Pole": own} for name, own in runs.items()} | {"cut": {"Pole": [[NAN]]}}
    made = results(records, systems=systems)
    assert [pair.outcome for pair in made.comparisons("Pole", "loss", "stock")] == ["better", "better"]
    (verdict,) = verdicts(made)
    assert verdict.headline.startswith("loss is better than stock on Pole: ")


def test_a_claim_about_all_environments_must_hold_on_both_bases(results):
    # One learning curve over steps, but half as many updates of twice the steps: ahead at equal updates only
    loss = [run_of([2.0 + seed / 10, 4.0 + seed / 10, 6.0 + seed / 10], steps=200) for seed in range(6)]
    stock = [run_of([1.0 + seed / 10, 2.0 + seed / 10, 3.0 + seed / 10, 4.0 + seed / 10]) for seed in range(6)]
    made = results({"loss": {"A": loss, "B": loss}, "stock": {"A": stock, "B": stock}})
    assert made.overall[0].improvement.low > 0.5
    assert verdicts(made)[0].headline.startswith("No system is established to be better than stock over all 2 environments: ")


def test_a_claim_about_all_environments_needs_three_seeds_of_each(results):
    def made(seeds):
        better, worse = [[9.0 + seed] * 4 for seed in range(seeds)], [[1.0 + seed] * 4 for seed in range(seeds)]
        names = [f"{number}" for number in range(3)]
        return verdicts(results({"loss": dict.fromkeys(names, better), "stock": dict.fromkeys(names, worse)}))[0].headline

    assert made(2).startswith("No system is established to be better than stock over all 3 environments: ")


def test_a_claim_about_all_environments(results):
    better, worse = [[9.0 + seed] * 4 for seed in range(3)], [[1.0 + seed] * 4 for seed in range(3)]
    made = results({"loss": {"A": better, "B": better}, "stock": {"A": worse, "B": worse}})
    assert verdicts(made)[0].headline.startswith("loss is better than stock over all 2 environments: ")


def test_a_run_without_an_episode_counts_for_no_claim(results):
    base, new = [[0.0] * 4, [0.5] * 4, [0.2] * 4], [[NAN] * 4, [1.0] * 4, [2.0] * 4]
    (verdict, *_) = verdicts(results({"loss": {"A": new, "B": new}, "stock": {"A": base, "B": base}}))
    assert verdict.headline.startswith("No system is established to be better than stock over all 2 environments: ")
    assert "from 4 runs" in verdict.detail
