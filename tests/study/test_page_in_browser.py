"""The page in a real Chromium: what a person sees and can do."""

import io
import time

import numpy as np
import pytest
from browser import chromium, missing
from matplotlib import image

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]
CURVES = "document.querySelectorAll('#curves-0-0 .scatterlayer .js-line').length"
TITLE = "document.querySelector('#curves-0-0 .xtitle').textContent"


@pytest.fixture(scope="module")
def open_page(hostile):
    """``open_page(width, height, dark)``: the report, on a screen of that size."""
    with chromium() as page:

        def opened(width=1200, height=900, dark=False):
            page.size(width, height, dark)
            page.open(hostile / "report.html")
            look_at_curves(page)
            page.wait(f"{CURVES} > 0")
            return page

        yield opened


def look_at_curves(page):
    """Charts are drawn as they come into sight."""
    page.run("document.getElementById('curves-0-0').scrollIntoView({block: 'center'})")


def press(page, selector):
    page.click(selector)
    look_at_curves(page)


def ink(page):
    """A picture of what is on the screen ``[height, width, 3]``, in [0, 1]."""
    return image.imread(io.BytesIO(page.driver.get_screenshot_as_png()))[..., :3]


def blue_dots(picture):
    """How many of a picture's dots have the first system's colour."""
    return (np.abs(picture - np.array([0x25, 0x63, 0xC9]) / 255).max(axis=-1) < 0.05).sum()


def luminance(page, selector="body"):
    """How light an element's background is, in [0, 1]."""
    text = page.run(f"getComputedStyle(document.querySelector('{selector}')).backgroundColor")
    return np.mean([int(part) for part in text[4:-1].split(",")]) / 255


def test_it_loads_complains_of_nothing_and_asks_the_network_for_nothing(open_page, hostile):
    page = open_page()
    page.run("document.getElementById('profile-1').scrollIntoView()")
    page.wait("document.querySelectorAll('#profile-1 .js-line').length > 0")
    requests, complaints = page.log()
    assert complaints == []
    assert {address for address in requests if not address.startswith("data:")} == {(hostile / "report.html").as_uri()}


def test_the_screen_shows_the_verdict_and_curves(open_page):
    page = open_page()
    assert "established" in page.run("document.querySelector('.verdict').innerText")
    # The first system's colour is on the screen, in its curve and not only in its key
    deadline = time.monotonic() + 10
    while blue_dots(picture := ink(page)) <= 200:
        assert time.monotonic() < deadline, blue_dots(picture)
    assert picture.shape[:2] == (900, 1200)
    assert len(np.unique((picture * 255).astype(int).reshape(-1, 3), axis=0)) > 50


def test_a_system_can_be_hidden_and_shown_again(open_page):
    page = open_page()
    before = page.run(CURVES)
    press(page, "input[name=system][value='0']")
    page.wait(f"{CURVES} < {before}")
    press(page, "input[name=system][value='0']")
    page.wait(f"{CURVES} === {before}")
    press(page, "button[data-all='']")
    page.wait(f"{CURVES} === 0")
    press(page, "button[data-all='1']")
    page.wait(f"{CURVES} === {before}")
    assert page.log()[1] == []


def test_the_axis_can_be_switched(open_page):
    page = open_page()
    lines = {}
    for axis, title in [("steps", "Environment steps"), ("seconds", "Seconds"), ("bytes", "Bytes sent by agents")]:
        press(page, f"input[name=axis][value={axis}]")
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
    ActionChains(page.driver).send_keys(Keys.TAB).perform()
    assert page.run("document.activeElement.name") == "system"
    ActionChains(page.driver).send_keys(Keys.SPACE).perform()
    page.wait(f"{CURVES} < {before}")
    unlabelled = "[...document.querySelectorAll('input')].filter(input => !input.labels[0].innerText.trim()).length"
    assert page.run(unlabelled) == 0
    assert page.run("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0 && box.ariaLabel)")


def test_a_phone_never_scrolls_sideways(open_page):
    page = open_page(360, 740)
    for anchor in ("#overall", "#curves-0-0", "#frontier-0", "#profile-1"):
        page.run(f"document.querySelector('{anchor}').scrollIntoView()")
        page.wait(f"document.querySelectorAll('{anchor} .scatterlayer').length > 0")
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.run("document.documentElement.scrollWidth") <= 360
    assert page.run("[...document.querySelectorAll('.main-svg')].every(svg => svg.getBoundingClientRect().right <= 360)")


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
    page.wait(
        "[...document.querySelectorAll('#curves-0-0 .js-line')].some(line => line.style.stroke === 'rgb(106, 165, 255)')"
    )


def test_hovering_shows_names_as_text(open_page, names):
    page = open_page()
    page.driver.execute_script("Plotly.Fx.hover('curves-0-0', {xval: 400}, 'xy')")
    page.wait("document.querySelectorAll('#curves-0-0 .hoverlayer text').length > 0")
    shown = page.run("document.querySelector('#curves-0-0 .hoverlayer').textContent").replace("\xa0", " ")
    assert "stock" in shown
    assert names["system"][:20] in shown
    assert page.run("document.querySelectorAll('img').length") == 0


def test_paper_gets_every_chart_in_light_colours(open_page):
    page = open_page(dark=True)
    page.driver.execute_script("dispatchEvent(new Event('beforeprint'))")
    page.wait("[...document.querySelectorAll('.chart')].every(box => box.querySelector('.scatterlayer'))")
    assert page.run("document.documentElement.dataset.theme") == "light"
    assert page.run("[...document.querySelectorAll('.chart .main-svg')].every(svg => svg.clientWidth <= 680)")
    page.driver.execute_script("dispatchEvent(new Event('afterprint'))")
    assert page.run("document.documentElement.dataset.theme") == "dark"
    assert page.log()[1] == []
