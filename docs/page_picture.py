"""Photograph the page of a committed study, for README and docs, in Chromium: python docs/page_picture.py"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "benchmarks" / "results" / "studies" / "broken_sensors"
OUT = Path(__file__).parent / "_static" / "page.png"
ENVIRONMENT = "LunarLanderContinuous-v3"
"""Of the study's two; a page of both shows curves far below what a picture holds."""
WIDTH, HEIGHT = 1440, 2000

with tempfile.TemporaryDirectory() as folder:
    copied = shutil.copytree(STUDY, Path(folder) / "study")
    file = copied / "study.yaml"
    content = yaml.safe_load(file.read_text())
    content["environments"] = {ENVIRONMENT: content["environments"][ENVIRONMENT]}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    subprocess.run([sys.executable, "-m", "rl_agg.study.cli", "report", str(copied)], check=True, stdout=subprocess.DEVNULL)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        browser.get((copied / "report.html").as_uri())
        drawn = "return document.documentElement.dataset.ready === 'yes'"
        WebDriverWait(browser, 60).until(lambda chromium: chromium.execute_script(drawn), "the page has not drawn its charts")
        below = browser.execute_script("return document.querySelector('figure').getBoundingClientRect().bottom")
        photograph = (
            Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB").crop((0, 0, WIDTH, int(below) + 16))
        )
few_colors = photograph.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)  # a third of the bytes
few_colors.save(OUT, optimize=True)
