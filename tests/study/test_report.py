"""The page: everything on it, nothing fetched, nothing executed that a name smuggled in."""

import json
import re
from html.parser import HTMLParser

import pytest

from rl_agg.study.report import MAX_POINTS, write_report
from rl_agg.study.spec import Budget, Environment, System
from rl_agg.study.store import Store

NASTY = '</script><img src=x onerror="alert(1)">'


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
def folder(tmp_path, tiny, updates_of):
    """A study of three systems, one of them with a hostile name and one failed, with long runs."""
    systems = {"stock": System("stable_baselines3:PPO"), NASTY: System("sb3_agg:AggPPO"), "broken": System("x:Y")}
    study = tiny(
        systems=systems, name="A & B <study>", environments={"Pole": Environment(threshold=400.0)}, budget=Budget(updates=900)
    )
    store = Store(tmp_path / "out")
    with store.writing(study):
        for cell in study.cells:
            if cell.system_name == "broken":
                store.write_failure(cell, "Traceback (most recent call last):\nValueError: <b>no</b>\n")
            else:
                returns = [float("nan"), *(float(update + cell.seed) for update in range(899))]
                store.write(cell, updates_of(returns), ["mind the <gap>"])
    write_report(store.directory)
    return store.directory


def data_of(html):
    return json.loads(re.search(r"const DATA = (.*);\n", html).group(1))


def test_every_system_is_told_in_every_format(folder):
    page = (folder / "report.html").read_text()
    for name in ("stock", NASTY):
        assert name in Tags(page).text
        assert name in (folder / "report.md").read_text()
    assert [system["name"] for system in data_of(page)[0]["systems"]] == ["stock", NASTY]
    lines = (folder / "report.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("environment,system,num_seeds")


def test_nothing_is_fetched(folder):
    page = (folder / "report.html").read_text()
    tags = Tags(page).tags
    assert not [attrs for _, attrs in tags if {"src", "href", "srcset", "data", "action"} & attrs.keys()]
    assert {"link", "iframe", "object", "embed", "img", "base", "form"}.isdisjoint(tag for tag, _ in tags)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL).group(1)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [attrs["content"] for _, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_names_cannot_become_tags(folder):
    page = (folder / "report.html").read_text()
    tags = Tags(page)
    assert not [attrs for tag, attrs in tags.tags if tag in ("img", "b") or "onerror" in attrs]
    assert [tag for tag, _ in tags.tags].count("script") == 2
    assert "A & B <study>" in tags.text
    assert "ValueError: <b>no</b>" in tags.text


def test_the_page_tells_the_verdict_before_anything_else(folder):
    text = Tags((folder / "report.html").read_text()).text
    assert text.index("established") < text.index("Updates") < text.index("Threshold step")


def test_warnings_failures_versions_and_the_study_are_told(folder):
    for text in (Tags((folder / "report.html").read_text()).text, (folder / "report.md").read_text()):
        assert "4 of 4 runs warned: mind the <gap>" in text
        assert "Failed: broken on Pole, seed 0: ValueError: <b>no</b>" in text
        assert "4 of 6 runs finished so far" in text
        assert "torch" in text
        assert "sb3_agg:AggPPO" in text


def test_long_curves_are_thinned_by_averaging(folder):
    stock = data_of((folder / "report.html").read_text())[0]["systems"][0]
    assert {len(stock[name]) for name in ("mean", "low", "high", "update", "env_steps", "wall_time")} == {MAX_POINTS}
    # 900 updates into 400 points: the first three of them are NaN, 0 and 1, and one more for seed 1
    assert stock["update"][0] == 2.0
    assert stock["mean"][0] == pytest.approx(1.0)
    assert (stock["low"][0], stock["high"][0]) == pytest.approx((0.5, 1.5))
    assert stock["env_steps"][-1] == pytest.approx(100 * stock["update"][-1])


def test_a_report_can_be_written_again(folder):
    before = (folder / "report.csv").read_bytes()
    write_report(folder)
    assert (folder / "report.csv").read_bytes() == before
