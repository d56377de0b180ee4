"""A headless Chromium: what it draws of a page, what it logs and what it asks for."""

import json
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from cli.private_servers import ServerNotInstalled

Scheme = Literal["light", "dark"]
_SECONDS = 60  # for a page and for a script


class Browser:
    """One window, in which one page after another is opened."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        driver.set_page_load_timeout(_SECONDS)
        driver.set_script_timeout(_SECONDS)

    def open(self, page: Path, width: int, scheme: Scheme) -> None:
        """Open a file in a window of this many CSS pixels, for people who prefer light or dark; forget what was said before."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.said()
        self.asked_for()
        self._driver.get(page.as_uri())

    def run(self, script: str, *arguments: object) -> Any:
        """Return what the body of a function returns in the page."""
        return self._driver.execute_script(script, *arguments)  # type: ignore[no-untyped-call]

    def shoot(self, file: Path) -> None:
        """Write the whole page as a PNG file."""
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        file.write_bytes(b64decode(shot["data"]))

    def said(self) -> list[str]:
        """Return what has come to the console: of scripts, and of the browser about the page."""
        return [f"{entry['level']}: {entry['message']}" for entry in self._driver.get_log("browser")]

    def asked_for(self) -> list[str]:
        """Return the addresses of everything that the page wanted to load, itself first."""
        messages = (json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance"))
        sent = (message for message in messages if message["method"] == "Network.requestWillBeSent")
        return [message["params"]["request"]["url"] for message in sent]


@contextmanager
def start_browser(folder: Path) -> Iterator[Browser]:
    """Run a browser for the length of a block. folder: of its profile. Raises ServerNotInstalled."""
    options = webdriver.ChromeOptions()
    options.binary_location = _program("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (
        "headless=new",
        "no-sandbox",  # tests may run as root, for whom there is none; the pages are our own
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-background-networking",
        "no-first-run",
        f"user-data-dir={folder}",
    ):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, Service(_program("chromedriver")))
    try:
        driver.get("about:blank")  # in the place of a new tab, which loads much
        yield Browser(driver)
    finally:
        driver.quit()


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise ServerNotInstalled(f"{name} is not installed; sudo apt-get install -y chromium chromium-driver")
    return path
