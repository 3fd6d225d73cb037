"""The page: everything on it, nothing fetched, nothing executed that a name smuggled in."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import image
from returns import keep

from rl_agg.study.analysis.store import Store
from rl_agg.study.report import page_data
from rl_agg.study.report.charts import MAX_POINTS, charts_of
from rl_agg.study.report.figures import _curves, _differences, _profiles, _style
from rl_agg.study.report.live import LivePage
from rl_agg.study.report.page_data import _numbers
from rl_agg.study.report.story import settings
from rl_agg.study.report.writing import write_report
from rl_agg.study.spec.study import Budget, Environment, System


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text outside of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._silent = [], "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent = False

    def handle_data(self, data):
        self.text += "" if self._silent else data


@pytest.fixture
def html(hostile):
    return (hostile / "report.html").read_text()


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html).group(1))


def test_every_system_is_reported_in_every_format(hostile, html, names):
    data = data_of(html)
    assert data["systems"] == ["stock", names["system"], "_thrifty", "broken"]
    assert [chart["title"] for chart in data["charts"]] == [names["environment"], "Pole"]
    assert names["system"] in Tags(html).text
    assert names["environment"] in Tags(html).text
    lines = (hostile / "report.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("environment,system,num_seeds")
    assert len((hostile / "comparisons.csv").read_text().splitlines()) == 1 + 2 * 2 * 2


def test_nothing_is_fetched(html):
    tags = Tags(html).tags
    assert not [attrs for _, attrs in tags if {"src", "srcset", "data", "action"} & attrs.keys()]
    assert all(attrs["href"].startswith("#") for _, attrs in tags if "href" in attrs)
    assert {"link", "iframe", "object", "embed", "img", "base", "form"}.isdisjoint(tag for tag, _ in tags)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_names_cannot_become_tags_or_markers(html, names):
    tags = Tags(html)
    assert not [attrs for tag, attrs in tags.tags if tag == "img" or "onerror" in attrs]
    assert "<b>no</b>" not in html
    assert [tag for tag, _ in tags.tags].count("script") == 4
    assert "A & B <study> @TITLE@" in tags.text
    assert "ValueError: <b>no</b>" in tags.text
    assert tags.text.count("mind the <gap>") == 1  # so that no name was taken for the notes' marker


def test_markdown_keeps_names_harmless(hostile):
    text = (hostile / "report.md").read_text()
    before, _, code = text.partition("```yaml")
    assert "<" not in before
    assert "&lt;img src=x" in before
    assert "<img src=x" in code  # in a fence nothing is carried out


def test_the_page_gives_the_verdict_before_anything_else(html):
    text = Tags(html).text
    assert text.index("over all 2 environments") < text.index("Updates") < text.index("Threshold step")


def test_warnings_failures_versions_and_the_study_are_reported(hostile, html):
    text = Tags(html).text
    for expected in ("12 of 12 runs warned: mind the <gap>", "12 of 16 runs finished", "4 failed", "torch", "sb3_agg:AggPPO"):
        assert expected in text
        assert expected.replace("<", "&lt;").replace(">", "&gt;") in (hostile / "report.md").read_text()
    assert "Failed: 4 cells: ValueError: <b>no</b>" in text
    assert "broken on Pole, seed 1" in text


def test_long_curves_are_thinned_by_averaging(html):
    chart = data_of(html)["charts"][1]
    x, mean, low, high, runs, stride = chart["measures"][0]["axes"]["updates"]["0"]
    assert {len(part) for part in (x, mean, low, high, *runs)} == {MAX_POINTS}
    assert (stride, [run[1] - mean[1] for run in runs]) == (1, pytest.approx([-0.5, 0.5]))
    # 900 updates into 250 points: the first three are NaN, 0 and 1, and one more for seed 1
    assert (x[0], mean[0], low[0], high[0]) == pytest.approx((2.0, 1.0, 0.5, 1.5))
    (steps,) = chart["measures"][0]["axes"]["steps"]["0"]  # the rest is that over updates
    assert steps[-1] == pytest.approx(100 * x[-1])


def test_what_did_not_record_an_axis_is_left_out_there(html):
    chart = data_of(html)["charts"][1]
    assert sorted(chart["measures"][0]["axes"]["bytes"]) == ["1", "2"]
    assert {number: point[0] for number, point in chart["frontier"].items()} == {"1": 9000, "2": 900}
    assert chart["cheapest"] == [2]  # the other returns less for ten times the bytes
    assert sorted(chart["measures"][0]["axes"]["seconds"]) == ["0", "1", "2"]


def test_profiles_fall_from_all_runs_to_none(html):
    data = data_of(html)
    for profile in (data["overall"], *(chart["profile"] for chart in data["charts"])):
        for share, low, high in profile["systems"].values():
            assert share == sorted(share, reverse=True)
            assert all(a <= b <= c for a, b, c in zip(low, share, high, strict=True))
    assert data["charts"][0]["profile"]["systems"]["0"][0][::MAX_POINTS] == [1]


def test_the_page_is_light(html):
    assert len(html) < 5e5


def test_figures_show_something(hostile):
    files = sorted((hostile / "figures").glob("*.png"))
    assert len(files) == 9  # returns, differences, wins and bytes of two environments, and the profiles
    for file in files:
        pixels = image.imread(file)
        assert min(pixels.shape[:2]) > 200
        assert np.ptp(pixels) > 0.5


def test_wins_are_drawn_where_episodes_are_won(tmp_path, tiny, updates_of):
    study = tiny(systems={name: System("sb3_agg:AggPPO") for name in ("winner", "loser", "lone")}, baseline="loser")
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            wins = {"winner": {"win_rate": 0.9}, "loser": {"win_rate": 0.1}, "lone": {}}[cell.system_name]
            keep(store, cell, updates_of([1.0, 2.0, 3.0], **wins))
    wins = charts_of(write_report(store.directory))[0].measures[1]
    assert {name: curve.mean.tolist() for name, curve in wins.by_axis["steps"].items()} == {
        "winner": [0.9] * 3,
        "loser": [0.1] * 3,
    }
    page = (store.directory / "report.html").read_text()
    assert data_of(page)["charts"][0]["measures"][1]["label"] == "Share of episodes won"
    assert 'id="curves-0-1"' in page
    assert (store.directory / "figures" / "CartPole-v1_wins.png").exists()


def test_far_from_zero_a_curve_keeps_its_shape():
    assert _numbers(np.array([100001.0, 100003.0, 100006.0, 100009.0])) == [100001, 100003, 100006, 100009]


def test_a_report_can_be_written_again(hostile):
    before = (hostile / "report.csv").read_bytes()
    write_report(hostile)
    assert (hostile / "report.csv").read_bytes() == before


def test_the_best_are_drawn_first_where_systems_are_many(tmp_path, tiny, updates_of):
    systems = {f"s{number}": System("sb3_agg:AggPPO") for number in range(20)}
    study = tiny(systems=systems, baseline="s0", seeds=1, budget=Budget(updates=2))
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            keep(store, cell, updates_of([float(cell.system_name[1:])] * 2))
    write_report(store.directory)
    tags = Tags((store.directory / "report.html").read_text()).tags
    boxes = [attrs for tag, attrs in tags if attrs.get("name") == "system"]
    listed = data_of((store.directory / "report.html").read_text())["systems"]
    assert {listed[int(box["value"])] for box in boxes if "checked" in box} == {f"s{number}" for number in (0, *range(9, 20))}
    assert sorted(listed) == sorted(systems)


def test_what_is_drawn_first_looks_different_where_systems_are_many(tmp_path, tiny, updates_of, monkeypatch):
    systems = {f"s{number}": System("sb3_agg:AggPPO") for number in range(40)}
    study = tiny(systems=systems, baseline="s0", seeds=1, budget=Budget(updates=2))
    store, styles = Store(tmp_path / "out"), {}
    with store.writing(study):
        for cell in study.cells:
            ahead = cell.system_name in {"s1", *(f"s{number}" for number in range(30, 40))}
            keep(store, cell, updates_of([float(ahead)] * 2))  # s1 and s33 once were drawn alike

    def style(name, names):
        styles[name] = tuple(map(str, _style(name, names).values()))
        return _style(name, names)

    monkeypatch.setattr("rl_agg.study.report.figures._style", style)
    write_report(store.directory)
    tags = Tags((store.directory / "report.html").read_text()).tags
    checked, lines = [attrs for tag, attrs in tags if attrs.get("name") == "system"], []
    for at, (tag, _) in enumerate(tags):
        if tag == "line" and "checked" in tags[at - 2][1]:
            lines.append(tags[at][1]["class"])
    assert {"s0", "s1", "s33"} <= styles.keys()
    assert len(styles) == len(set(styles.values())) == len(set(lines)) == sum("checked" in box for box in checked) == 12


def test_long_names_of_systems_leave_room_for_the_panel(results):
    systems = {f"{'a system with a name that goes on and on, ' * 2}{number}": System("x:Y") for number in range(2)}
    found = results({name: {"X-v0": [[1.0, 2.0]]} for name in systems}, systems=systems, baseline=next(iter(systems)))
    (chart,) = charts_of(found)
    names = list(systems)
    drawn = {
        "curves": _curves(chart, chart.measures[0], names),
        "differences": _differences(chart, names),
        "profiles": _profiles([("X-v0", chart.profile)], names),
    }
    for kind, figure in drawn.items():
        figure.draw_without_rendering()
        assert figure.axes[0].get_position().width > 0.35, kind
    assert len(drawn["profiles"].legends[0].get_texts()) == 2
    labels = json.loads(page_data.data_of(names, names[0], [chart], None))["labels"]
    assert labels["difference"].endswith("…")


def test_an_environment_with_a_long_name_has_its_figures(tmp_path, tiny, updates_of):
    environments = {ending * 300: Environment(id="CartPole-v1") for ending in "ab"} | {
        "b" * 299: Environment(id="CartPole-v1")
    }
    study = tiny(environments=environments, seeds=1)
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            keep(store, cell, updates_of([1.0, 2.0]))
    write_report(store.directory)
    assert len(list((store.directory / "figures").iterdir())) == 7


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_an_infinite_return_does_not_spoil_the_page(tmp_path, tiny, updates_of):
    store, study = Store(tmp_path / "out"), tiny(seeds=1, budget=Budget(updates=2))
    with store.writing(study):
        for cell in study.cells:
            keep(store, cell, updates_of([1.0, float("inf")]))
    write_report(store.directory)
    assert data_of((store.directory / "report.html").read_text())["charts"][0]["measures"][0]["axes"]["updates"]["0"][1] == [
        1,
        None,
    ]


def test_a_system_that_failed_stays_in_sight(hostile, html):
    text = " ".join(Tags(html).text.split())
    assert text.count("broken 0 ✕ failed") == 2  # in the ranking of either environment
    assert text.count("broken ✕ failed ✕ failed") == 1  # and at a glance
    assert "| broken | 0 | failed |" in (hostile / "report.md").read_text()


def test_bytes_are_drawn_only_where_systems_differ_in_them(tmp_path, tiny, updates_of):
    store, study = Store(tmp_path / "out"), tiny(seeds=1)
    with store.writing(study):
        for number, cell in enumerate(study.cells):
            keep(store, cell, updates_of([1.0, 2.0], bytes=1000.0 + 4 * number))  # a signal more
    page = (write_report(store.directory), (store.directory / "report.html").read_text())[1]
    assert 'id="frontier-0"' not in page
    assert 'id="differences-0"' in page


def test_the_page_has_the_difference_that_the_table_has(html, names):
    ((number, outcome, text, ends),) = [row for row in data_of(html)["charts"][1]["differences"] if row[0] == 1]
    assert (number, outcome) == (1, "not established")  # two seeds, whatever they say
    assert text == "50.00 [50.00, 50.00]"
    assert ends == [[50, 50, 50]]  # the same at equal updates and at equal env steps
    assert Tags(html).text.count(names["system"]) > 4


def test_settings_that_differ_are_said_in_words(tiny, results):
    systems = {
        "stock": System("sb3_agg:AggPPO", {"aggregation": "sum", "n_steps": 64}),
        "robust": System("sb3_agg:AggPPO", {"aggregation": "krum", "aggregation_kwargs": {"f": 2}, "n_steps": 64}),
        "twin": System("sb3_agg:AggPPO", {"aggregation": "sum", "n_steps": 64}),
        "other": System("x:Y", {"n_steps": 64}),
    }
    assert settings(results({"stock": {"Pole": [[1.0]]}}, systems=systems)) == {
        "stock": "sb3_agg:AggPPO, aggregation sum",
        "robust": "aggregation krum, aggregation_kwargs.f 2",
        "twin": "the settings of stock",
        "other": "x:Y, aggregation not set",
    }


def test_a_running_studys_page_is_followed_until_it_stops(tmp_path, tiny):
    study = tiny(seeds=1)
    store, page = Store(tmp_path / "out"), tmp_path / "out" / "report.html"
    with store.writing(study), pytest.raises(KeyboardInterrupt), LivePage(store.directory) as live:  # noqa: PT012
        live.update()
        assert 'data-reload="10"' in page.read_text()
        assert "No run has finished yet." in page.read_text()
        page.unlink()
        live.update()  # only just written
        assert not page.exists()
        raise KeyboardInterrupt
    assert "data-reload" not in page.read_text()


def test_a_page_that_cannot_be_written_costs_a_study_nothing(tmp_path):
    with LivePage(tmp_path / "nowhere") as live:
        live.update()
    assert not (tmp_path / "nowhere").exists()
