"""`splitee bench` measures real runs: its figures are there, positive and agree with each other. No timing is judged."""

import json
from statistics import median
from typing import Any

import pytest

from cli import bench
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
