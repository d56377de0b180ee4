"""`splitee bench` measures real runs: its figures are there, positive and agree with each other. No timing is judged."""

import json
import math
from statistics import median
from typing import Any

import pytest

from cli import bench
from cli.bench_metrics import Pair, ratio_of
from cli.bench_train import QUICK

pytestmark = pytest.mark.usefixtures("forkserver")


def measured(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_train(rabbitmq_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.train(json=True, broker=rabbitmq_url, store=redis_url, quick=True)
    found = measured(capsys)

    repetitions = found["repetitions"]
    assert len(repetitions) == QUICK.repetitions
    for name in ("plain", "embedded", "rabbitmq"):
        rates = [repetition[name] for repetition in repetitions]
        assert min(rates) > 0
        assert found["samples_per_second"][name] == pytest.approx(median(rates), rel=1e-3)
    for name in ("embedded", "rabbitmq"):
        ratios = [repetition[name] / repetition["plain"] for repetition in repetitions]
        assert found["ratio"][name] == pytest.approx(median(ratios), rel=1e-3)
    for repetition in repetitions:
        assert repetition["plain"] == max(repetition["loops"].values())
    # width 4, 32x32 features in float16; a label of 8 bytes; the rest is envelope
    assert 4 * 32 * 32 * 2 + 8 <= found["bytes_per_sample"] <= 1.2 * 4 * 32 * 32 * 2
    assert found["settings"]["clients"] == 4
    assert found["machine"]["torch"]


def test_train_with_exporters(rabbitmq_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.train(json=True, broker=rabbitmq_url, store=redis_url, quick=True, metrics=True)
    found = measured(capsys)

    pairs = [Pair(**repetition) for repetition in found["repetitions"]]
    assert len(pairs) == QUICK.repetitions
    assert min(min(pair.off, pair.on) for pair in pairs) > 0
    low, high = found["interval"]
    assert low < found["ratio"] < high
    listening = found["listening"]
    assert listening["events_per_batch"] > 4, "published, confirmed, trained, acknowledged"
    assert 0 < listening["share"] < 1


def test_the_interval_of_a_ratio_is_students_on_logarithms() -> None:
    pairs = [Pair(off=1.0, on=math.exp(logarithm)) for logarithm in (-0.02, 0.0, 0.02)]
    ratio, interval = ratio_of(pairs)
    assert ratio == pytest.approx(1.0)
    assert interval == pytest.approx([math.exp(-4.303 * 0.02 / math.sqrt(3)), math.exp(4.303 * 0.02 / math.sqrt(3))], rel=1e-4)
    assert ratio_of(pairs[:1]) == (pytest.approx(math.exp(-0.02)), None)


def test_memory(rabbitmq_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.memory(json=True, broker=rabbitmq_url, store=redis_url, quick=True)
    found = measured(capsys)

    resident = found["worker_rss_bytes"]
    assert set(resident) == {"2", "4"}
    assert min(resident.values()) > 100 * 2**20  # torch alone is more
    assert found["ratio"] == pytest.approx(resident["4"] / resident["2"], rel=1e-3)
    assert found["store_bytes"]["4"] > 0
    assert found["broker_rss_bytes"] == {"2": None, "4": None}  # not ours to look into


def test_inference(rabbitmq_url: str, redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench.inference(json=True, broker=rabbitmq_url, store=redis_url, quick=True)
    found = measured(capsys)

    assert min(found["samples_per_second"].values()) > 0
    assert found["ratio"] == pytest.approx(median(found["ratios"]), rel=1e-3)
    for how in ("together", "one by one"):
        assert list(found["latency_seconds"][how]) == ["1", "4"]
        for waited in found["latency_seconds"][how].values():
            assert 0 < waited["p50"] <= waited["p99"]
