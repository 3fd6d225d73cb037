"""The page in a real Chromium: what a person sees and can do."""

import io

import numpy as np
import pytest
from browser import chromium, missing
from matplotlib import image

from rl_agg.study.report.style import DARK, LIGHT

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]
CURVES = "document.querySelectorAll('#curves-0-0 .curve').length"
TITLE = "document.querySelector('#curves-0-0 .axis-title').textContent"
CHARTS = "[...document.querySelectorAll('.chart')]"


@pytest.fixture(scope="module")
def open_page(hostile):
    """``open_page(width, height, dark, fragment)``: the report, on a screen of that size."""
    with chromium() as page:

        def opened(width=1200, height=900, dark=False, fragment=""):
            page.size(width, height, dark)
            page.open(hostile / "report.html", fragment)
            return page

        yield opened


def ink(page):
    """A picture of what is on the screen ``[height, width, 3]``, in [0, 1]."""
    return image.imread(io.BytesIO(page.driver.get_screenshot_as_png()))[..., :3]


def blue_dots(picture):
    """How many of a picture's dots have the second system's colour."""
    return (np.abs(picture - parts_of(LIGHT[1])).max(axis=-1) < 0.05).sum()


def parts_of(color):
    """``#rrggbb`` as numbers in [0, 1]."""
    return np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255


def luminance(page, selector="body"):
    """How light an element's background is, in [0, 1]."""
    text = page.run(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")
    return np.mean([int(part) for part in text[4:-1].split(",")]) / 255


def test_it_loads_complains_of_nothing_and_asks_the_network_for_nothing(open_page, hostile):
    page = open_page()
    requests, complaints = page.log()
    assert complaints == []
    assert {address for address in requests if not address.startswith("data:")} == {(hostile / "report.html").as_uri()}


def test_the_screen_shows_the_verdict_and_curves(open_page):
    page = open_page()
    assert "over all 2 environments" in page.run("document.querySelector('.verdict').innerText")
    page.run("document.getElementById('curves-0-0').scrollIntoView({block: 'center'})")
    picture = ink(page)
    assert blue_dots(picture) > 200  # a system's colour is on the screen, in its curve and not only in its key
    assert picture.shape[:2] == (900, 1200)
    assert len(np.unique((picture * 255).astype(int).reshape(-1, 3), axis=0)) > 50


def test_every_chart_is_drawn_before_anybody_scrolls(open_page):
    page = open_page()
    assert page.run(f"{CHARTS}.length") == 11
    assert page.run(f"{CHARTS}.filter(box => !box.querySelector('svg .curve, svg .dot')).length") == 0
    assert page.run("document.querySelectorAll('[data-s] .spark path').length") == 6


def test_a_system_can_be_hidden_and_shown_again(open_page):
    page = open_page()
    before = page.run(CURVES)
    page.click("input[name=system][value='0']")
    page.wait(f"{CURVES} < {before}")
    page.click("input[name=system][value='0']")
    page.wait(f"{CURVES} === {before}")
    page.click("button[data-all='']")
    page.wait(f"{CURVES} === 0")
    assert page.run(f"{CHARTS}.every(box => box.hidden)")  # no empty axes
    assert "choose a system" in page.run("document.querySelector('.absent').innerText")
    page.click("button[data-all='1']")
    page.wait(f"{CURVES} === {before}")
    assert page.log()[1] == []


def test_the_axis_can_be_switched(open_page):
    page = open_page()
    lines = {}
    for axis, title in [("steps", "Environment steps"), ("seconds", "Seconds"), ("bytes", "Bytes sent by agents")]:
        page.click(f"input[name=axis][value={axis}]")
        page.wait(f"{TITLE} === '{title}'")
        lines[axis] = page.run(CURVES)
    assert lines["bytes"] < lines["steps"]  # the stock system records none, which is said
    assert page.run("document.querySelector('#curves-0-0').parentElement.querySelector('.absent').innerText") == (
        "Without a record of bytes sent by agents: stock."
    )
    assert page.log()[1] == []


def test_the_keyboard_reaches_the_switches_and_shows_where_it_is(open_page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = open_page()
    page.run("document.querySelector('input[name=axis]').focus()")
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
    page.wait(f"{TITLE} === 'Environment steps'")
    outline = "getComputedStyle(document.activeElement.closest('label')).outlineStyle"
    assert page.run(outline) == "solid"
    before = page.run(CURVES)
    ActionChains(page.driver).send_keys(Keys.TAB, Keys.TAB, Keys.TAB).perform()  # past runs and smoothing
    assert page.run("document.activeElement.name") == "system"
    ActionChains(page.driver).send_keys(Keys.SPACE).perform()
    page.wait(f"{CURVES} < {before}")
    unlabelled = "[...document.querySelectorAll('input')].filter(input => !input.labels[0].innerText.trim()).length"
    assert page.run(unlabelled) == 0
    assert page.run("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0 && box.ariaLabel)")


@pytest.mark.parametrize("width", [390, 800, 1440])
def test_nothing_is_cut_at_any_width(open_page, width):
    page = open_page(width, 844)
    page.run("document.querySelectorAll('main details').forEach(each => { each.open = true; })")
    assert page.run("document.documentElement.scrollWidth") <= width
    outside = f"{CHARTS}.flatMap(box => [...box.querySelectorAll('text')]).filter(text => {{"
    outside += " const own = text.getBoundingClientRect(), box = text.closest('.card').getBoundingClientRect();"
    outside += " return own.left < box.left || own.right > box.right; }).length"
    assert page.run(outside) == 0
    hints = "[...document.querySelectorAll('.scroll')]"
    hints += ".filter(box => (box.scrollWidth > box.clientWidth) === box.nextElementSibling.hidden)"
    page.wait(f"{hints}.length === 0")
    assert (page.run("document.querySelectorAll('.hint:not([hidden])').length") > 0) == (width < 1000)


def test_dark_and_light_follow_the_system_and_the_switch(open_page):
    page = open_page(dark=True)
    assert luminance(page) < 0.2
    assert ink(page).mean() < 0.35
    page.click("input[name=theme][value=light]")
    page.wait("document.documentElement.dataset.theme === 'light'")
    assert luminance(page) > 0.9
    page = open_page(dark=False)
    assert luminance(page) > 0.9
    page.click("input[name=theme][value=dark]")
    page.wait("document.documentElement.dataset.theme === 'dark'")
    assert luminance(page) < 0.2
    stroke = page.run("getComputedStyle(document.querySelector('#curves-0-0 [data-s=\"1\"] .curve')).stroke")
    assert [int(part) for part in stroke[4:-1].split(",")] == (parts_of(DARK[1]) * 255).tolist()


def hover(page, chart="curves-0-0", across=0.5, number=1):
    """Move the pointer to a system's curve."""
    page.driver.execute_script(
        "const { X, Y, spec } = drawn[arguments[0]], box = document.getElementById(arguments[0]).getBoundingClientRect();"
        "const one = spec.series.find(each => each.number === arguments[2]), i = Math.floor(one.x.length * arguments[1]);"
        "const at = { clientX: box.left + X.at(one.x[i]), clientY: box.top + Y.at(one.y[i]), bubbles: true };"
        "document.getElementById(arguments[0]).dispatchEvent(new PointerEvent('pointermove', at));",
        chart,
        across,
        number,
    )


def test_hovering_shows_names_as_text_and_its_row(open_page, names):
    page = open_page()
    hover(page)
    shown = page.run("document.querySelector('.tip').innerText").replace("\xa0", " ")
    assert shown.startswith("Updates 45")
    assert "stock" in shown
    assert names["system"] in shown
    assert page.run("document.querySelectorAll('img').length") == 0
    assert set(page.run("[...document.querySelectorAll('tr.lit')].map(row => row.dataset.s)")) == {"1"}
    band = "getComputedStyle(document.querySelector('#curves-0-0 [data-s=\"1\"] .band')).display"
    assert page.run(band) == "inline"
    page.driver.execute_script("document.getElementById('curves-0-0').dispatchEvent(new PointerEvent('pointerleave'))")
    assert page.run("document.querySelectorAll('[data-s].lit, .dim').length") == 0
    assert page.run(band) == "none"  # neither the baseline nor the leader


def test_hovering_a_row_shows_its_curves(open_page):
    page = open_page()
    page.driver.execute_script(
        "document.querySelector('tr[data-s=\"2\"]').dispatchEvent(new Event('pointerover', {bubbles: true}))"
    )
    lit = "[...document.querySelectorAll('.chart .series.lit')].map(each => each.dataset.s)"
    assert len(page.run(lit)) >= 6
    assert set(page.run(lit)) == {"2"}


def test_a_zoom_outlives_a_switch_and_a_reload(open_page):
    page = open_page()
    page.driver.execute_script("zoom(document.getElementById('curves-0-0'), [100, 200])")
    ends = "[drawn['curves-0-0'].X.low, drawn['curves-0-0'].X.high]"
    page.click("input[name=system][value='2']")
    assert page.run(ends) == [100, 200]
    fragment = page.run("location.hash")
    page = open_page(fragment=fragment)
    assert page.run(ends) == [100, 200]
    assert page.run("document.querySelector('input[name=system][value=\"2\"]').checked") is False
    page.click("figure:has(#curves-0-0) .unzoom")
    assert page.run(ends)[1] > 800


def test_the_address_keeps_what_is_chosen(open_page):
    page = open_page(fragment="#on-pole&axis=steps&runs=1&smooth=5&theme=dark")
    assert page.run(TITLE) == "Environment steps"
    assert page.run("document.querySelectorAll('#curves-1-0 .run').length") == 6  # two seeds of three systems
    assert luminance(page) < 0.2
    assert abs(page.run("document.getElementById('on-pole').getBoundingClientRect().top")) < 40
    page.click("input[name=axis][value=seconds]")
    assert page.run("location.hash") == "#on-pole&axis=seconds&runs=1&smooth=5&theme=dark"


def test_smoothing_averages_neighbours(open_page):
    page = open_page()
    assert page.run("smoothed([0, 3, 0, null, 6], 2)") == [1.5, 1, 1.5, None, 6]
    assert page.run("smoothed([0, 3, 0], 0)") == [0, 3, 0]


def test_numbers_on_axes_are_readable(open_page):
    page = open_page()
    given = [1e12, 1e-7, 250000, -0.5, 0, 999, 4e6]
    assert page.run("arguments[0].map(value => short(value))", given) == [
        "1e12",
        "1e\u22127",
        "250k",
        "\u22120.5",
        "0",
        "999",
        "4M",
    ]
    assert page.run("labels([100001, 100002, 100003], short)") == ["100.001k", "100.002k", "100.003k"]
    assert page.run("ticks(0, 1e12, 4)") == [0, 2e11, 4e11, 6e11, 8e11, 1e12]
    assert page.run("[bytes(0), bytes(1500), bytes(3e12)]") == ["0 B", "1.5 kB", "3 TB"]


def test_columns_can_be_sorted(open_page):
    page = open_page()
    returns = "[...document.querySelectorAll('table[data-chart=\"1\"] tbody tr')].map(row => worth(cellsOf(row)[2]))"
    page.click("table[data-chart='1'] [data-column='2']")
    down = page.run(returns)
    assert down[:3] == sorted(down[:3], reverse=True)
    page.click("table[data-chart='1'] [data-column='2']")
    up = page.run(returns)
    assert up[:3] == sorted(down[:3])
    assert page.run("document.querySelector('table[data-chart=\"1\"] tbody tr:last-child').innerText").startswith("broken")


def test_tables_and_charts_can_be_taken_along(open_page, names):
    page = open_page()
    page.driver.execute_script(
        "window.saved = []; save = (name, type, content) => saved.push([name, content]); copy = text => saved.push(['', text])"
    )
    menus = ".card:has(table[data-chart='1']) .menu button, figure:has(#curves-1-0) .menu button"
    page.run("[...document.querySelectorAll(arguments[0])].forEach(button => button.click())", menus)
    page.wait("saved.length === 6")
    shown = "([name, content]) => [name.split('.').pop(), typeof content === 'string' ? content : 'blob']"
    taken = dict(page.run(f"saved.slice(3).map({shown})"))
    assert taken["png"] == "blob"
    assert taken["svg"].startswith("<svg")
    assert "var(" not in taken["svg"]
    assert taken["csv"].startswith("system,Updates,Mean episodic return,low,high\n")
    table, markdown, latex = (page.run("saved[arguments[0]][1]", at) for at in range(3))
    assert table.startswith("System,Seeds,R̄,")
    assert len(markdown.splitlines()) == 6
    assert {line.replace("\\|", "").count("|") for line in markdown.splitlines()} == {11}
    assert "\\begin{tabular}{lrrrrrrrrr}" in latex
    assert "\\_thrifty" in latex


def test_the_keyboard_reads_and_zooms_a_chart(open_page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = open_page()
    page.run("document.querySelector('#curves-0-0 svg').focus()")
    ActionChains(page.driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert "stock" in page.run("document.querySelector('.tip').innerText")
    ActionChains(page.driver).send_keys("+").perform()
    assert page.run("drawn['curves-0-0'].X.high") < 800
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert page.run("drawn['curves-0-0'].X.high") > 800


def test_paper_gets_every_chart_in_light_colours(open_page):
    page = open_page(dark=True)
    page.driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.documentElement.dataset.theme") == "light"
    assert page.run(f"{CHARTS}.every(box => box.querySelector('svg').viewBox.baseVal.width <= 700)")
    page.driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    printed = page.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"]
    assert len(printed) > 50_000
    assert page.log()[1] == []


def test_an_open_page_of_a_running_study_loads_itself_again(open_page, tmp_path, hostile):
    page, file = open_page(), tmp_path / "report.html"
    text = (hostile / "report.html").read_text().replace("<main>", '<main data-reload="1">')
    file.write_text(text)
    page.open(file, "#on-pole&axis=steps")
    file.write_text(text.replace("12 of 16 runs finished", "13 of 16 runs finished"))
    page.wait("document.querySelector('.facts').innerText.includes('13 of 16')")
    page.wait("document.documentElement.dataset.ready === 'yes'")
    assert page.run(TITLE) == "Environment steps"
