"""Photograph the page of a committed study, for README and docs, in Chromium: python docs/page_picture.py"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "benchmarks" / "results" / "studies" / "broken_sensors"
OUT = Path(__file__).parent / "_static" / "page.png"
WIDTH, HEIGHT = 1200, 1500

with tempfile.TemporaryDirectory() as folder:
    copied = shutil.copytree(STUDY, Path(folder) / "study")
    subprocess.run([sys.executable, "-m", "rl_agg.study.cli", "report", str(copied)], check=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(argument)
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
        browser.get((copied / "report.html").as_uri())
        browser.implicitly_wait(10)
        browser.find_element("css selector", ".main-svg")  # curves are drawn
        browser.save_screenshot(str(OUT))
