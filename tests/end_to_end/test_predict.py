"""``splitee predict`` and its library on a trained run: in one process, and with server workers that come and go."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.utils import save_image

from broker import inference_events
from cli.main import app
from learning.data import load_dataset
from learning.images import read_image
from tests.end_to_end.conftest import Deploy, Undisturbed
from tests.end_to_end.harness import Node, one_line
from tests.proxy import at_port, closed_port, proxied
from workers.inference_client import InferenceClient, Where
from workers.trained_run import TrainedRun

IMAGES = 24
Command = Callable[..., Node]


def write_images(folder: Path, run: TrainedRun) -> torch.Tensor:
    """Write test images of the run's data set as files, in order; return them as they are read from there."""
    dataset = load_dataset(run.settings.data, 0)
    assert dataset.test is not None
    images = dataset.test.images(torch.arange(IMAGES))
    folder.mkdir()
    for number, image in enumerate(images):
        save_image(image, folder / f"{number:02}.png")
    return torch.stack([read_image(file, run.network.sample_shape) for file in sorted(folder.iterdir())])


def answers(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    """Return the lines of ``splitee predict --json``."""
    capsys.readouterr()
    app(["predict", *arguments, "--json"], standalone_mode=False)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_same_in_one_process_and_over_rabbitmq(
    deploy: Deploy, command: Command, rabbitmq_url: str, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy("clients.count=2", "clients.cuts=[3,4]", "training.rounds=1", "transport.amqp_heartbeat=2")
    assert deployment.train().wait() == 0
    run = TrainedRun.open(deployment.output)
    images = write_images(tmp_path / "images", run)
    with InferenceClient.open(deployment.output, max_entropy=0.0) as client:
        bound = float(client.predict(images).entropy.median())  # parts these images
    here = answers(capsys, str(deployment.output), "--input", str(tmp_path / "images"), "--max-entropy", repr(bound))
    assert [answer["where"] for answer in here].count("server") == IMAGES // 2 + 1
    server = command("server", "--run", deployment.run, "--broker", rabbitmq_url, "--store", redis_url, "--stay")

    later = at_port(rabbitmq_url, port := closed_port())
    with InferenceClient.open(deployment.output, client="client-01", broker=later, max_entropy=bound, patience=60) as client:
        found = client.predict(images)
        assert [where.value for where in found.where] == [str(answer["where"]).replace("server", "degraded") for answer in here]
        assert found.reason == "the broker is away"
        assert torch.equal(found.labels, client.predict(images, max_entropy=float("inf")).labels)
        with proxied(rabbitmq_url, port):
            while Where.DEGRADED in (found := client.predict(images)).where:
                assert server.process.exitcode is None, server.text()
                time.sleep(0.05)
            assert [(int(label), where.value) for label, where in zip(found.labels, found.where, strict=True)] == [
                (answer["label"], answer["where"]) for answer in here
            ]
            server.wait_for(inference_events.InferenceAnswered)
    remote = answers(
        capsys,
        *(str(deployment.output), "--broker", rabbitmq_url, "--patience", "60", "--max-entropy", repr(bound)),
        *("--input", str(tmp_path / "images" / "00.png"), *(str(tmp_path / "images" / f"{n:02}.png") for n in range(1, IMAGES))),
    )
    same = ("label", "where", "image")
    assert [[answer[key] for key in same] for answer in remote] == [[answer[key] for key in same] for answer in here]

    with InferenceClient.open(deployment.output, broker=rabbitmq_url, max_entropy=0.0, patience=1) as client:
        assert set(client.predict(images).where) == {Where.SERVER}
        server.kill()
        gone = [client.predict(images[:1]) for _ in range(20)]  # of which all but the first few do not wait
        assert {where for one in gone for where in one.where} == {Where.DEGRADED}
        assert all(one.reason for one in gone)
        alone = client.predict(images, max_entropy=float("inf"))
        assert set(alone.where) == {Where.CLIENT}
        assert torch.equal(torch.cat([one.labels for one in gone[:1]]), alone.labels[:1]), "degraded is the exit's own answer"
        again = command("server", "--run", deployment.run, "--broker", rabbitmq_url, "--store", redis_url, "--stay")
        while Where.SERVER not in client.predict(images[:1]).where:
            assert again.process.exitcode is None, again.text()
        again.signal(signal.SIGTERM)
        assert again.wait() == 0, again.text()


@pytest.mark.timeout(120)
def test_images_that_cannot_be_read_do_not_stop_the_others(undisturbed: Undisturbed, command: Command, tmp_path: Path) -> None:
    folder = undisturbed()["folder"]
    write_images(tmp_path / "images", TrainedRun.open(folder))
    (tmp_path / "images" / "05.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes.txt").write_text("not looked at")
    node = command("predict", str(folder), "--input", str(tmp_path / "images"), "--json", str(tmp_path / "missing.png"))
    assert node.wait() == 1
    lines = node.text().splitlines()
    assert [json.loads(line)["image"][-6:] for line in lines if line.startswith("{")] == [
        f"{number:02}.png" for number in range(IMAGES) if number != 5
    ]
    said = [line for line in lines if line.startswith("splitee: ")]
    assert "05.png cannot be decoded" in said[0]
    assert "missing.png cannot be decoded" in said[1]
    assert said[2] == f"splitee: 2 of {IMAGES + 1} images could not be read; the lines above say why"
    assert "Traceback" not in node.text()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid:5672"])
def test_a_broker_that_is_away_degrades_what_is_not_sure(
    address: str, undisturbed: Undisturbed, command: Command, tmp_path: Path
) -> None:
    folder = undisturbed()["folder"]
    images = write_images(tmp_path / "images", run := TrainedRun.open(folder))
    with InferenceClient.open(folder, max_entropy=0.0) as client:
        bound = float(client.predict(images).entropy.median())
    broker = ("--broker", f"amqp://user:secret-word@{address}/", "--patience", "3600")
    node = command("predict", str(folder), "--input", str(tmp_path / "images"), "--json", "--max-entropy", repr(bound), *broker)
    assert node.wait() == 0, node.text()
    lines = node.text().splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [answer["where"] for answer in found] == ["client" if answer["entropy"] < bound else "degraded" for answer in found]
    assert [answer["where"] for answer in found].count("client") == IMAGES // 2 - 1
    warning, summary = [line for line in lines if not line.startswith("{")]
    assert f"RabbitMQ at amqp://{address} does not answer: " in warning
    assert "start it, or check --broker" in warning
    assert summary.startswith(f"client {next(iter(run.clients))} at cut ")
    assert summary.endswith(" degraded (the broker is away)")
    assert "secret-word" not in node.text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--client", "client-99"), "no layers of client 'client-99'; it has those of client-01"),
        (("--max-entropy", "-1"), "max_entropy = -1.0: it is 0 (offload all) or more, in nats, or inf"),
        (("--max-entropy", "nan"), "max_entropy = nan"),
        (("--patience", "0"), "patience = 0.0: give seconds, more than 0"),
        (("--broker", "http://somewhere"), "--broker 'http://somewhere' is no RabbitMQ URL"),
        (("--broker", "amqp://guest:guest@127.0.0.1:port/"), "not a URL like amqp"),
    ],
)
def test_what_is_asked_for_wrongly_is_said_in_a_line(
    arguments: tuple[str, ...], message: str, undisturbed: Undisturbed, command: Command, tmp_path: Path
) -> None:
    folder = undisturbed()["folder"]
    image = tmp_path / "image.png"
    save_image(torch.zeros(1, 8, 8), image)
    assert message in one_line(command("predict", str(folder), "--input", str(image), *arguments))


def test_no_run_and_no_images_are_said_in_a_line(undisturbed: Undisturbed, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in one_line(command("predict", str(tmp_path), "--input", str(tmp_path / "empty")))
    assert "no images: name files" in one_line(command("predict", str(undisturbed()["folder"])))
    image = tmp_path / "image.png"
    save_image(torch.zeros(1, 8, 8), image)
    assert "holds no finished run" in one_line(command("predict", str(tmp_path), "--input", str(image)))
