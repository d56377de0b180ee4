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

import yaml

from cli.private_servers import PrivateServerError, ServerNotInstalled
from tests.dashboards import ALERTS

START_SECONDS = 60.0
ROLES = ("splitee", "coordinator", "server", "client")  # names of jobs; the first is of tests that need no more
_OURS = f'job=~"{"|".join(ROLES)}"'


class Prometheus:
    """A running Prometheus. targets: scraped as HOST:PORT."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._began = time.time()
        self._targets: dict[str, list[str]] = {}

    def scrape(self, target: str, job: str = "splitee") -> None:
        """Scrape one more target from now on, as a part of a job."""
        targets = self._targets.setdefault(job, [])
        targets.append(target)
        fresh = self._folder / f"{job}.json.new"
        fresh.write_text(json.dumps([{"targets": targets}]))
        fresh.rename(self._folder / f"{job}.json")

    def scrape_rabbitmq(self, exporter: str) -> None:
        """Scrape RabbitMQ's own exporter, for both jobs that do."""
        for job in ("rabbitmq", "rabbitmq-queues"):
            self.scrape(exporter, job)

    def names(self) -> set[str]:
        """Return the names of all series that it has from our roles, without those that it makes itself."""
        found = self._get("label/__name__/values", **{"match[]": f"{{{_OURS}}}"})
        return {name for name in found if name != "up" and not name.startswith(("scrape_", "ALERTS"))}

    def moved(self) -> set[str]:
        """Return the names of all series that were ever above 0."""
        return self.moving("__name__")

    def moving(self, label: str, name: str = "splitee_.*") -> set[str]:
        """Return the values of a label in all series that were ever above 0. name: of the series, a regular expression."""
        found = self._get("query", query=f'{{__name__=~"{name}"}}[1h]')["result"]
        return {one["metric"].get(label, "") for one in found if any(float(value) > 0 for _, value in one["values"])}

    def types(self) -> dict[str, str]:
        """Return the types of all metrics of our roles, by name."""
        return {found["metric"]: found["type"] for found in self._get("targets/metadata", match_target=f"{{{_OURS}}}")}

    def ask(self, promql: str) -> list[dict[str, Any]]:
        """Return all series that an expression gives now. Raises HTTPError for one that is none."""
        return list(self._get("query", query=promql)["result"])

    def has_given(self, promql: str) -> bool:
        """Return whether an expression has given anything at any second since Prometheus was started."""
        times = {"start": f"{self._began}", "end": f"{time.time()}", "step": "1"}
        return bool(self._get("query_range", query=promql, **times)["result"])

    def _get(self, what: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.loads(answer.read())["data"]


@contextmanager
def start_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Run Prometheus with our alerts for the length of a block. Raises ServerNotInstalled or PrivateServerError."""
    program = shutil.which("prometheus")
    if program is None:
        raise ServerNotInstalled("prometheus is not installed; sudo apt-get install -y prometheus")
    folder.mkdir(parents=True)
    (folder / "prometheus.yml").write_text(json.dumps(_config()))
    shutil.copy(ALERTS, folder)
    log = folder / "prometheus.log"
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "--log.format=json"], cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield Prometheus(folder, f"http://{_address(process, log)}")
    finally:
        process.kill()
        process.wait()


def _config() -> dict[str, Any]:
    """Return our configuration, but much faster, and with targets from files."""
    config = dict(yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text()))
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"}
    config["scrape_configs"].append({"job_name": ROLES[0]})
    for job in config["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["file_sd_configs"] = [{"files": [f"{job['job_name']}.json"]}]
        if job["job_name"] not in ROLES:
            job["scrape_interval"] = job["scrape_timeout"] = "2s"  # RabbitMQ says a thousand figures each time
    return config


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
