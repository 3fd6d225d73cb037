"""A Chromium to look at a page with, and what it said of it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromedriver")


def missing() -> list[str]:
    """What is not installed of what these tests need."""
    modules = [] if importlib.util.find_spec("selenium") else ["selenium"]
    return modules + [program for program in PROGRAMS if shutil.which(program) is None]


class Page:
    """An open page.

    :param driver: Selenium's.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.requests: list[str] = []
        self.complaints: list[str] = []

    def open(self, file: Path, fragment: str = "") -> None:
        """Load a page, and wait until it has drawn its charts."""
        self.driver.get("about:blank")  # or a page that differs in its fragment alone would stay
        self.driver.get(file.as_uri() + fragment)
        self.wait("document.documentElement.dataset.ready === 'yes'")

    def run(self, script: str, *arguments: object) -> Any:
        """Evaluate JavaScript."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression holds."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda _: self.run(condition), f"still not: {condition}")

    def click(self, selector: str) -> None:
        """Press an element as a keyboard or a finger would, wherever it is."""
        from selenium.webdriver.common.by import By

        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        self.driver.execute_script("arguments[0].click()", element)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Make it a screen of this many CSS pixels, with a preference for colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def log(self) -> tuple[list[str], list[str]]:
        """Addresses that were asked for, and errors and warnings of the console, since it was opened."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        self.complaints += [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] != "INFO"]
        return self.requests, self.complaints


@contextmanager
def chromium() -> Iterator[Page]:
    """A headless Chromium that listens to what pages ask the network for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    # Continuous integration often runs as root in a container with a small /dev/shm
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield Page(driver)
    finally:
        driver.quit()
