"""A real Prometheus on a port and a folder of its own, which scrapes what a test names."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cli.private_servers import PrivateServerError, ServerNotInstalled

START_SECONDS = 60.0
_CONFIG = """\
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
  - job_name: splitee
    file_sd_configs: [{files: [targets.json]}]
"""


class Prometheus:
    """A running Prometheus. targets: scraped as HOST:PORT."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._targets: list[str] = []

    def scrape(self, target: str) -> None:
        """Scrape one more target from now on."""
        self._targets.append(target)
        fresh = self._folder / "targets.json.new"
        fresh.write_text(json.dumps([{"targets": self._targets}]))
        fresh.rename(self._folder / "targets.json")

    def names(self) -> set[str]:
        """Return the names of all series it has seen, without those that it makes itself."""
        found = self._get("label/__name__/values")
        return {name for name in found if name != "up" and not name.startswith("scrape_")}

    def moved(self) -> set[str]:
        """Return the names of all series that were ever above 0."""
        return self.moving("__name__")

    def moving(self, label: str, name: str = "splitee_.*") -> set[str]:
        """Return the values of a label in all series that were ever above 0. name: of the series, a regular expression."""
        found = self._get("query", query=f'{{__name__=~"{name}"}}[1h]')["result"]
        return {one["metric"].get(label, "") for one in found if any(float(value) > 0 for _, value in one["values"])}

    def types(self) -> dict[str, str]:
        """Return the types of all metrics of its targets, by name."""
        return {name: found[0]["type"] for name, found in self._get("metadata").items()}

    def ask(self, promql: str) -> list[dict[str, Any]]:
        """Return all series that an expression gives now. Raises HTTPError for one that is none."""
        return list(self._get("query", query=promql)["result"])

    def _get(self, what: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.loads(answer.read())["data"]


@contextmanager
def start_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus for the length of a block. Raises ServerNotInstalled or PrivateServerError."""
    program = shutil.which("prometheus")
    if program is None:
        raise ServerNotInstalled("prometheus is not installed; sudo apt-get install -y prometheus")
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(_CONFIG)
    log = folder / "prometheus.log"
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--log.format=json"], cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield Prometheus(folder, f"http://{_address(process, log)}")
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return where it listens, which it says in its log, when it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                said = json.loads(line)
                if said.get("msg") == "Listening on" and _is_ready(said["address"]):
                    return str(said["address"])
        time.sleep(0.1)
    raise PrivateServerError(f"Prometheus did not start: {log.read_text()[-1500:]}")


def _is_ready(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:
        return bool(answer.status == 200)
    return False
