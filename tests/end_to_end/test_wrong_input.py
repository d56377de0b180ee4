"""Every mistake of a user is one line, what, where and what to do, with a non-zero exit code and nothing left behind."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from broker import events
from cli import servers
from cli.errors import report_errors
from cli.main import app
from cli.prepare import prepare
from cli.private_servers import PrivateServer
from coordinator.store import redis as redis_store
from coordinator.store.ledger import Ledger
from coordinator.store.open import open_store
from tests.end_to_end.conftest import Deploy
from tests.end_to_end.harness import Node, tiny
from workers.client_state import ClientState, Identity

NOWHERE = "127.0.0.1:1"
MODELS = """\
import torch
from torch import nn

number = 3

def fails(shape, classes):
    raise RuntimeError("no such weights")

def text(shape, classes):
    return "layers"

def one(shape, classes):
    return [nn.Flatten()]

def unfit(shape, classes):
    return [nn.Flatten(), nn.Linear(64, 32), nn.Linear(33, classes)]

def wide(shape, classes):
    return [nn.Flatten(), nn.Linear(64, classes + 1)]

def untested():
    return (torch.zeros(40, 1, 8, 8), torch.arange(40) % 10), None
"""
EXPERIMENT = {  # wrong in itself: found before anything else is looked at
    "training.lr=1": ["training.lr is no key", "training.client.lr or training.server.lr"],
    "trainig.rounds=3": ["trainig is no section", "did you mean training"],
    "training.rounds=many": ['training.rounds = "many"', "must be a valid integer"],
    "training.rounds": ["write section.key=value"],
    "data.download=yes": ["data.download", "must be true or false"],
    "training.batch_size=1": ["training.batch_size = 1", "greater than or equal to 2"],
    "training.client.lr=inf": ["training.client.lr", "finite"],
    "training.strategy=average": ["training.strategy", "'averaging', 'sequential', 'distributed', 'alone' or 'centralized'"],
    "training.streams=20": ["training.streams = 20", "12 clients"],
    "training.strategy=sequential training.streams=2": ["streams = 2 needs strategy = averaging"],
    "clients.list=[{id='a',cut=3}]": ["list, and count and cuts", "keep one"],
    "clients.cuts=[]": ["clients.cuts = []: must not be empty"],
    "clients.cuts=[0]": ["clients.cuts[0] = 0", "greater than or equal to 1"],
    "clients.min_clients=13": ["min_clients = 13 is more than the 12 clients"],
    "training.strategy=alone training.streams=2": ["streams = 2 needs strategy = averaging, not alone"],
    "training.strategy=alone clients.open=true clients.count=none clients.cuts=none": ["alone has no servers", "clients.open"],
    "clients.open=true clients.count=none clients.cuts=none": ["clients join over a broker", "--broker and --store"],
    "transport.unconfirmed_bytes=268435456": ["unconfirmed_bytes = 268435456 must be below held_bytes"],
    "transport.heartbeat_interval=20": ["heartbeat_timeout = 30.0", "twice heartbeat_interval"],
    "name=My_Run": ["name", "lower-case letters, digits and dashes"],
}
PARTS = {  # model, data and machine do not fit
    "clients.cuts=[3,10]": ["cut 10 is beyond the network", "a cut is 1..9"],
    "model.name=resnet50": ["unknown model 'resnet50'", "resnet18, resnet34 or module:function"],
    "model.name=absent:layers": ["'absent:layers'", "there is no module 'absent'"],
    "model.name=wrong_models:layers": ["wrong_models.py has no 'layers'"],
    "model.name=wrong_models:number": ["'number' is of type int, not a function"],
    "model.name=wrong_syntax:layers": ["importing 'wrong_syntax' failed: SyntaxError"],
    "model.name=wrong_models:fails": ["'wrong_models:fails' failed: RuntimeError: no such weights"],
    "model.name=wrong_models:text": ["returned a str, not a list of layers"],
    "model.name=wrong_models:one": ["at least 2 layers", "wrong_models:one has 1"],
    "model.name=wrong_models:unfit": ["layer 3 (Linear) does not accept features of shape (2, 32)"],
    "model.name=wrong_models:wide": ["layer 2 (Linear)", "gives (2, 11)", "expected (batch, classes) = (2, 10)"],
    "data.name=cifar": ["unknown data set 'cifar'", "did you mean cifar10"],
    "data.name=cifar10": ["cifar10 is missing", "data.download = true"],
    "data.name=imagefolder:nowhere": ["there is no folder nowhere/train", "PATH/train/CLASS"],
    "data.name=imagefolder:unlike": ["different class folders", "b, c"],
    "data.name=imagefolder:broken": ["image broken/train/a/0.png cannot be decoded"],
    "data.name=wrong_models:untested clients.count=4": ["no test split"],
    "training.strategy=alone data.train_limit=20": ["20 training samples are too few for 12 clients"],
    "data.train_limit=20": ["20 training samples are too few for 12 clients", "larger data.train_limit"],
    "data.partition=shards data.classes_per_client=20": ["classes_per_client = 20", "there are 10 classes"],
    "training.memory_format=channels_last training.device=cpu": ["images of one channel", "contiguous or auto"],
    "transport.message_limit=1024 model.width=64": ["transport.message_limit = 1024", "at cut 5", "at most 4096", "set it to "],
    "training.device=cuda": ["no CUDA device", "cpu or auto"],
}
COMMANDS = {
    "train absent.toml": ["absent.toml: no such file", "splitee init absent.toml"],
    "train .": [".: cannot be read: Is a directory"],
    "train wrong.toml": ["wrong.toml: not TOML", "line 1"],
    "train --broker amqp://localhost": ["--broker without --store", "give both, or neither"],
    "train --store redis://localhost": ["--store without --broker"],
    "train --broker http://a:secret@localhost --store redis://localhost": ["--broker", "amqp://user:password@host"],
    f"train alone.toml --broker amqp://{NOWHERE} --store redis://{NOWHERE}": ["training.strategy = alone", "without --broker"],
    "train alone.toml --servers 2": ["training.strategy = alone trains whole networks without servers"],
    f"coordinator alone.toml --broker amqp://{NOWHERE} --store redis://{NOWHERE}": [
        "training.strategy = alone",
        "use `splitee train`",
    ],
    "train --output wrong.toml": ["cannot be written to wrong.toml", "--output"],
    "train --output /proc/nothing": ["cannot be written to /proc/nothing", "--output"],
    "init wrong.toml": ["wrong.toml exists", "--force"],
    "profile --max-step-ms 0": ["--max-step-ms 0: must be a number above 0"],
    "profile --max-memory-mb -3": ["--max-memory-mb -3", "above 0"],
    "profile --max-mbps nan": ["--max-mbps nan", "above 0"],
    "profile --max-mbps inf": ["--max-mbps inf", "above 0"],
    "profile --output .": [".: cannot be written", "--output"],
    "profile --output nowhere/figures.json": ["nowhere/figures.json: cannot be written", "folder that exists"],
    "profile --set training.round=3": ["training.round is no key"],
    "profile --set data.name=cifar": ["unknown data set 'cifar'", "did you mean cifar10"],
    "profile --set training.device=cuda": ["no CUDA device", "cpu or auto"],
    "status --run a --store ftp://localhost": ["store URL ftp:", "redis://host:port"],
    "status --run a --store localhost:6379": ["--store", "redis://host:port"],
    f"server --run A_b --broker amqp://{NOWHERE} --store redis://{NOWHERE}": ["--run 'A_b'", "lower-case letters"],
    f"status --run a --store redis://{NOWHERE}": [
        f"Redis at redis://{NOWHERE} does not answer",
        "--store",
    ],
    f"dead list --run A_b --broker amqp://{NOWHERE}": ["--run 'A_b'", "lower-case letters"],
    f"dead list --run a --broker amqp://{NOWHERE}": [f"RabbitMQ at amqp://{NOWHERE} does not answer", "--broker"],
    f"dead drop --run a --broker amqp://{NOWHERE}": ["name dead letters by their ids, or give --all"],
    f"dead requeue --run a --broker amqp://{NOWHERE} --store ftp://localhost --all": ["store URL ftp:", "redis://host:port"],
    f"clean --run A_b --broker amqp://{NOWHERE} --store redis://{NOWHERE}": ["--run 'A_b'", "lower-case letters"],
    f"clean --run a --broker amqp://{NOWHERE} --store redis://{NOWHERE}": [f"Redis at redis://{NOWHERE} does not answer"],
    f"clean --run a --broker http://a:secret@{NOWHERE} --store memory://": ["--broker", "amqp://user:password@host"],
    f"client --run a --id B_2 --cut 3 --broker amqp://{NOWHERE}": ["--id 'B_2'", "such as client-01"],
    f"client --run a --id b --cut 3 --broker amqp://{NOWHERE}": [f"RabbitMQ at amqp://{NOWHERE} does not answer", "--broker"],
}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wrong files of every kind."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "wrong.toml").write_text("[training\nrounds = 3")
    (folder / "alone.toml").write_text('[training]\nstrategy = "alone"\n')
    (folder / "wrong_syntax.py").write_text("def layers(:")
    (folder / "wrong_models.py").write_text(MODELS)
    for place in ("unlike/train/a", "unlike/train/b", "unlike/test/a", "unlike/test/c", "broken/train/a", "broken/test/a"):
        (folder / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / place / "0.png")
    (folder / "broken/train/a/0.png").write_bytes(b"\x89PNG and no more")
    return folder


@pytest.fixture(autouse=True)
def here(mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mistakes)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for variable in [name for name in os.environ if name.startswith("SPLITEE_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("SPLITEE_LOG_FORMAT", "text")  # as on a terminal


def refused(*arguments: str) -> str:
    """Run a command in this process, as ``splitee`` does; return the one line of its refusal."""
    with pytest.raises(SystemExit) as end:
        report_errors(lambda: app(list(arguments)))
    line = end.value.code  # text: Python prints it on stderr and exits with 1
    assert isinstance(line, str)
    assert line.startswith("splitee: ")
    assert "\n" not in line
    assert "secret" not in line
    return line


def check(arguments: list[str], fragments: list[str]) -> None:
    before = sorted(Path().rglob("*"))
    line = refused(*arguments)
    assert [fragment for fragment in fragments if fragment not in line] == [], line
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("overrides", [*EXPERIMENT, *PARTS])
def test_wrong_experiments(overrides: str) -> None:
    flags = [flag for override in overrides.split() for flag in ("--set", override)]
    small = ["--set", "data.image_size=8", "--set", "model.width=4"] if overrides in PARTS else []
    check(["train", *small, *flags], (EXPERIMENT | PARTS)[overrides])


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_commands(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(servers.CONNECT_SECONDS, redis_store._FIRST_SECONDS) <= 10  # nobody waits longer for an address that is wrong
    monkeypatch.setattr(servers, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(redis_store, "_FIRST_SECONDS", 0.5)
    check(command.split(), COMMANDS[command])


def test_a_folder_that_cannot_be_used(undisturbed: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    finished = undisturbed()["folder"]
    train = ["train", str(finished.parent / "tiny.toml"), "--output", str(tmp_path / "output")]
    shutil.copytree(finished, tmp_path / "output")
    line = refused(*train, "--set", "training.rounds=3")
    assert "output holds the run of another experiment" in line
    assert "--output" in line
    index = tmp_path / "output" / "state" / "store" / "index"
    index.write_bytes(index.read_bytes()[:-10])
    assert "index is damaged" in refused(*train)


def test_wrong_passwords(rabbitmq_url: str, redis_server: PrivateServer) -> None:
    line = refused(
        "client", "--run", "a", "--id", "b", "--cut", "3", "--broker", rabbitmq_url.replace("splitee:", "splitee:secret")
    )
    assert "refused: ACCESS_REFUSED" in line
    redis.Redis.from_url(redis_server.url).config_set("requirepass", "right")
    line = refused("status", "--run", "a", "--store", redis_server.url.replace("://", "://:secret@"))
    assert "refuses the password" in line
    assert "check --store" in line


def test_a_store_that_is_too_small(rabbitmq_url: str, redis_server: PrivateServer, tmp_path: Path) -> None:
    redis.Redis.from_url(redis_server.url).config_set("maxmemory", "3mb")
    servers = ["--broker", rabbitmq_url, "--store", redis_server.url]
    line = refused("coordinator", str(tiny_file(tmp_path)), *servers, "--output", str(tmp_path / "output"))
    assert "raise maxmemory, or set training.streams to fewer replicas" in line
    assert list(tmp_path.rglob("output/*")) == []


def test_another_experiment_under_the_same_name(rabbitmq_url: str, redis_url: str, run_name: str, tmp_path: Path) -> None:
    store = open_store(redis_url, run_name)
    Ledger(store).create_run(prepare(tiny(tmp_path, f"name={run_name}")).record)
    changed = ["--set", f"name={run_name}", "--set", "training.rounds=9", "--output", str(tmp_path / "output")]
    line = refused("coordinator", str(tmp_path / "tiny.toml"), *changed, "--broker", rabbitmq_url, "--store", redis_url)
    assert f"run '{run_name}' exists with a different experiment" in line
    assert "--set name=" in line
    assert list(tmp_path.rglob("output/*")) == []
    store.wipe()
    store.close()


def test_clients_that_do_not_fit_their_run(
    deploy: Deploy, rabbitmq_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])  # of examples
    layers, data = "examples.own_model:layers", "examples.own_model:data"
    own = (f"model.name={layers}", f"data.name={data}", "data.image_size=none", "clients.cuts=[1,2,3]")
    deployment = deploy(*own)
    deployment.coordinator().wait_for(events.RunStarted)

    def client(id: str, cut: str, *flags: str) -> str:
        return refused("client", "--run", deployment.run, "--id", id, "--cut", cut, "--broker", rabbitmq_url, *flags)

    assert "'client-99' is not in the experiment's list of clients" in client("client-99", "1")
    assert "cut 3, but the experiment has this client at cut 1" in client("client-01", "3")
    assert f"name it on this client's command line too, --model {layers}" in client("client-01", "1")
    assert "say where this client's own is with --data" in client("client-01", "1", "--model", layers)
    assert "digits has 10 classes" in client("client-01", "1", "--model", layers, "--data", "digits")

    state = tmp_path / "state"
    other = ClientState(state)
    other.claim(Identity(run="other", fingerprint="", client="client-01", cut=1, incarnation=1))
    other.close()
    line = client("client-01", "1", "--model", layers, "--data", data, "--state", str(state))
    assert "is the state of client client-01 at cut 1 in run 'other'" in line
    assert "use another --state folder" in line
    (state / "client.json").write_text("{")
    assert "client.json is damaged" in client("client-01", "1", "--state", str(state))


def test_roles_of_a_run_that_does_not_exist_say_what_they_wait_for(
    command: Callable[..., Node], rabbitmq_url: str, redis_url: str, run_name: str
) -> None:
    server = command("server", "--run", run_name, "--broker", rabbitmq_url, "--store", redis_url)
    client = command("client", "--run", run_name, "--id", "client-01", "--cut", "3", "--broker", rabbitmq_url)
    assert f"run '{run_name}'" in server.wait_for(events.Waiting)["what"]
    assert f"run '{run_name}'" in client.wait_for(events.Waiting)["what"]
    for node in (server, client):
        node.signal(signal.SIGTERM)
        assert node.wait() == 0, node.text()
        assert "Traceback" not in node.text()


def tiny_file(folder: Path) -> Path:
    tiny(folder)
    return folder / "tiny.toml"
