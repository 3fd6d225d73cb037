"""The page looks as in the committed pictures, at three widths in both colours.

``PICTURES=new make browser`` takes them again: look at them before they are committed.
"""

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from browser import chromium, missing
from PIL import Image

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}"),
]
HERE = Path(__file__).parent
PICTURES = HERE / "pictures"
BLOCK = 8
"""Dots on a side of what is averaged, so that how a letter's edge is drawn does not count."""
NOTICEABLE, TOLERATED = 0.1, 0.03
"""Difference of a block's average, of 1, and the share of blocks that may differ so much."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A Chromium that has the fonts of Matplotlib alone."""
    folder = tmp_path_factory.mktemp("fonts")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    config = (HERE / "fonts.conf").read_text().replace("FONTS", str(fonts)).replace("CACHE", str(folder / "cache"))
    (folder / "fonts.conf").write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FONTCONFIG_FILE", str(folder / "fonts.conf"))
        with chromium() as opened:
            yield opened


def blocks(picture):
    """Averages over squares of ``BLOCK`` dots ``[rows, columns, 3]``, in [0, 1]."""
    height, width = (size // BLOCK * BLOCK for size in picture.shape[:2])
    return picture[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3).mean((1, 3)) / 255


def differing(picture, other):
    """The share of a picture's blocks in which it noticeably differs from another ``[height, width, 3]``."""
    if picture.shape != other.shape:
        return 1.0
    return float((np.abs(blocks(picture) - blocks(other)).max(-1) > NOTICEABLE).mean())


def seen(page):
    """What is on the screen ``[height, width, 3]``."""
    return np.asarray(Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB"))


def look(page, report, width, dark, spoil=""):
    """The page's top and the first environment's curves, one above the other ``[1800, width, 3]``.

    :param spoil: JavaScript to change it by first.
    """
    page.size(width, 900, dark)
    page.open(report)
    page.driver.execute_script("document.querySelector('.facts').lastElementChild.textContent = 'written today';" + spoil)
    top = seen(page)
    page.driver.execute_script("document.getElementById('curves-0-0').scrollIntoView({block: 'end', behavior: 'instant'})")
    return np.concatenate([top, seen(page)])


@pytest.mark.parametrize("color", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1440])
def test_the_page_looks_as_committed(page, hostile, tmp_path, width, color):
    taken = look(page, hostile / "report.html", width, color == "dark")
    file = PICTURES / f"page-{width}-{color}.png"
    if os.environ.get("PICTURES") == "new":
        PICTURES.mkdir(exist_ok=True)
        Image.fromarray(taken).quantize(64).save(file, optimize=True)
    Image.fromarray(taken).save(tmp_path / file.name)
    share = differing(taken, np.asarray(Image.open(file).convert("RGB")))
    assert share <= TOLERATED, f"{share:.1%} of {tmp_path / file.name} differ from {file}"


def test_a_card_that_moves_is_noticed(page, hostile):
    """The tolerance is less than what a person would call another picture."""
    report = hostile / "report.html"
    before = look(page, report, 800, False)
    after = look(page, report, 800, False, "document.querySelector('.verdict').style.marginTop = '24px'")
    assert differing(before, before) == 0
    assert differing(before, after) > TOLERATED
