"""Every command of the README is run as it stands there, in a smaller size, or is checked where it cannot be run."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from broker import events, topology
from broker.topology import Queue
from cli.errors import report_errors
from cli.main import app
from cli.servers import connect
from coordinator.experiment import load_experiment
from tests.compose import environment_file, services
from tests.dockerfile import instructions
from tests.end_to_end.harness import Node, summary

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = "--set model.width=4 --set data.image_size=8 --set data.train_limit=100 --set training.rounds=1"
ONE_CLIENT = "--set clients.count=1 --set clients.cuts=[3]"
HOST = {  # the README's addresses, which the test's servers stand for
    "export SPLITEE_BROKER_URL=amqp://user:password@host:5672/",
    "export SPLITEE_STORE_URL=redis://:password@host:6379/0",
}
MAKE = {"make train", "make test"}
HERE = [  # in this order
    "splitee train --set name=quick --set training.rounds=3",
    "splitee init mine.toml",
    "splitee doctor",
    "splitee report runs/quick --output report.html",
]
DOWNLOAD = "splitee train experiments/cifar10-small.toml --set data.download=true"
MACHINES = {
    "splitee coordinator experiments/digits.toml",
    "splitee server --run digits",
    "splitee client --run digits --id client-01 --cut 3 --state state/client-01",
    "splitee status --run digits --once",
}
AFTERWARDS = [  # in this order
    "splitee dead list --run digits",
    "splitee dead show --run digits 20bb545a",
    "splitee dead drop --run digits --all",
    "splitee clean --run digits",
]
PROFILE = "splitee profile experiments/cifar10-small.toml --max-memory-mb 200 --max-mbps 20"
ANSWERS = [  # in this order
    "splitee sweep runs/digits",
    "splitee calibrate runs/digits --max-accuracy-loss 0.05",
    "splitee predict runs/digits --input images",
]
STAY = "splitee server --run digits --stay"  # both are run by test_predict
REMOTE = f"{ANSWERS[-1]} --broker amqp://user:password@host:5672/"
DOCKER = [  # the last four are about services that test_compose runs
    "docker build --tag hetero-splitee:cpu .",
    'docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" hetero-splitee:cpu init --compose',
    "docker compose up --detach",
    "docker compose exec server splitee status --run digits --once",
    "docker compose cp coordinator:/runs/digits digits",
    "docker compose down",
]
REPRODUCE = [  # in this order
    "splitee reproduce heterogeneous --dry-run",
    "splitee reproduce heterogeneous",
    "splitee reproduce threshold --strategies averaging",
    "splitee reproduce wire --strategies float32,uint8",
]
OWN = "splitee train examples/own.toml"
OWN_CLIENT = "splitee client --run own --id client-01 --cut 1 --model examples.own_model:layers --data examples.own_model:data"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def make(*arguments: str) -> None:
    """Run ``make``, as if no other one ran this test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPLITEE_", "MAKE"))}
    done = subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def publish(url: str, queue: Queue, body: bytes) -> None:
    """Put a message into a queue, which is made if it is not there."""
    transport = connect(url)
    transport.declare(queue)
    transport.publish(queue.name, body)
    transport.close()


def test_every_command_is_tested_below() -> None:
    commands = {line for block in blocks("sh") for line in block.splitlines()}
    assert commands == {
        *HOST,
        *MAKE,
        *HERE,
        DOWNLOAD,
        *MACHINES,
        *AFTERWARDS,
        PROFILE,
        *ANSWERS,
        STAY,
        REMOTE,
        *DOCKER,
        *REPRODUCE,
        OWN,
        OWN_CLIENT,
    }


def test_every_link_leads_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_make(tmp_path: Path) -> None:
    """This very run may be that of ``make test``; ``make train`` is run with what is installed."""
    make("-n", "test")
    arguments = ["ARGS=" + SMALL + f" --output {tmp_path}", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/.installed"]
    if not (Path(sys.prefix) / "bin" / "splitee").exists():
        pytest.skip("the package is not installed where these tests run")
    make("train", *arguments)
    assert summary(tmp_path)["clients"] == 12


def test_commands_in_one_process_and_what_they_leave_behind(
    command: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def splitee(line: str) -> None:
        program, *words = line.split()
        assert program == "splitee"
        node = command(*words)
        assert node.wait() == 0, node.text()

    monkeypatch.chdir(tmp_path)
    for line in HERE:
        splitee(line + (f" {SMALL}" if " train " in line else ""))
    found = summary(tmp_path / "runs" / "quick")
    table = README[README.index("key of `summary.json`") :]
    assert found.keys() == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", table, flags=re.MULTILINE)))) - {"summary"}
    assert {path.name for path in (tmp_path / "runs" / "quick").iterdir()} == {
        "summary.json", "metrics.jsonl", "layers", "experiment.json", "run.json", "state",
    }  # fmt: skip
    (tmp_path / "runs" / "quick").rename(tmp_path / "runs" / "digits")
    layers = "set(last) == {'2.weight', '2.bias'} and 'layer3.conv1.weight' in half and 'exit.2.weight' in half"
    for block, holds in zip(blocks("python"), ("len(found) == 4", layers), strict=True):
        exec(f"{block}\nassert {holds}", {})
    (tmp_path / "images").mkdir()
    save_image(torch.rand(1, 8, 8), tmp_path / "images" / "one.png")
    for line in ANSWERS:
        splitee(line)


def test_the_paper_s_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Averaging from one seed, where neither is named."""
    monkeypatch.chdir(tmp_path)
    for command in REPRODUCE:
        words = (
            f"{command.replace('heterogeneous', 'heterogeneous --strategies averaging')} --data digits --seeds 1 {SMALL}".split()
        )
        report_errors(lambda words=words: app(words[1:], standalone_mode=False))  # type: ignore[misc]
    for name in ("heterogeneous", "threshold", "wire"):
        folder = tmp_path / "runs" / "reproduce-small" / name
        assert {"table.md", "results.json", "accuracy.png"} <= {path.name for path in folder.iterdir()}


def test_with_docker(command: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Docker: the image is the one that services have, and its entrypoint does what the README has it do."""
    image = "hetero-splitee:cpu"
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    node = command(*DOCKER[1].partition(image)[2].split())
    assert node.wait() == 0, node.text()
    stack = services(tmp_path, environment_file((tmp_path / ".env").read_text()))
    assert DOCKER[0].split() == ["docker", "build", "--tag", stack["coordinator"].image, stack["coordinator"].raw["build"]]
    assert {stack["server"].image, stack["client-12"].image} == {image}
    assert instructions()[-2].words == ["splitee"]
    assert [one.text for one in instructions() if one.name == "WORKDIR"][-1] == "/work"
    service, folder = DOCKER[4].split()[3].split(":")
    assert folder in stack[service].command
    assert "SPLITEE_STORE_URL" in stack[DOCKER[3].split()[3]].environment


def test_which_cut_suits_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = PROFILE.replace(" --max-memory-mb 200 --max-mbps 20", f" --batches 1 --max-mbps 1e6 {SMALL}").split()
    report_errors(lambda: app(words[1:], standalone_mode=False))


def test_the_experiment_that_downloads_is_one() -> None:
    _, _, file, _, override = DOWNLOAD.split()
    assert load_experiment(ROOT / file, [override], {}).data.download


def test_on_many_machines(
    command: Callable[..., Node],
    rabbitmq_url: str,
    redis_url: str,
    run_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broker, store = f" --broker {rabbitmq_url}", f" --store {redis_url}"
    more = {
        "coordinator": f"{broker}{store} --set name={run_name} {SMALL} {ONE_CLIENT} --output {tmp_path}",
        "server": f"{broker}{store}",
        "client": broker,
    }
    nodes = {}
    for line in sorted(MACHINES):
        words = line.replace("state/client-01", str(tmp_path / "client-01")).replace("--run digits", f"--run {run_name}").split()
        if words[1] != "status":
            nodes[words[1]] = command(*words[1:], *more[words[1]].split())
    publish(rabbitmq_url, topology.coordinator(run_name), b"no message")
    for node in nodes.values():
        assert node.wait() == 0, node.text()
    assert summary(tmp_path)["rounds"] == 1
    assert (tmp_path / "client-01" / "client.json").exists()
    monkeypatch.setenv("SPLITEE_STORE_URL", redis_url)
    report_errors(lambda: app(["status", "--run", run_name, "--once"], standalone_mode=False))
    said = capsys.readouterr().out
    assert f"run {run_name}: finished" in said
    shares = summary(tmp_path)["accuracy"]["3"]
    assert f"accuracy after round 1 at client/server: cut 3 {shares['client']:.3f}/{shares['server']:.3f}" in said
    monkeypatch.setenv("SPLITEE_BROKER_URL", rabbitmq_url)
    for line in AFTERWARDS:
        report_errors(lambda line=line: app(line.replace("digits", run_name).split()[1:], standalone_mode=False))  # type: ignore[misc]
    listed, shown, dropped, cleaned = re.split(r"^(?=id |Dropped|Removed)", capsys.readouterr().out, flags=re.MULTILINE)
    assert "20bb545a  coordinator, from splitee, 10 bytes: not msgpack" in listed
    assert "begins 6e 6f 20 6d" in shown
    assert "Dropped 1 dead letters; 0 are left" in dropped
    assert f"Removed run '{run_name}'" in cleaned


def test_a_model_of_ones_own_on_many_machines(
    command: Callable[..., Node], rabbitmq_url: str, redis_url: str, run_name: str, tmp_path: Path
) -> None:
    """``splitee train examples/own.toml`` is run by test_examples."""
    broker, store = ("--broker", rabbitmq_url), ("--store", redis_url)
    short = f"--set name={run_name} --set training.rounds=1 --set clients.count=1 --set clients.cuts=[1] --output {tmp_path}"
    coordinator = command("coordinator", OWN.split()[-1], *short.split(), *broker, *store)
    server = command("server", "--run", run_name, *broker, *store)
    client = command(*OWN_CLIENT.replace("--run own", f"--run {run_name}").split()[1:], *broker)
    coordinator.wait_for(events.RunFinished)
    for node in (coordinator, server, client):
        assert node.wait() == 0, node.text()
    assert summary(tmp_path)["samples_trained"] == 426
