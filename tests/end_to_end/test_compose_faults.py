"""What is wrong in docker-compose.yml, or in a file that it mounts, is found before anything is started."""

from pathlib import Path

import pytest

from tests.end_to_end.stack import Stack

COMPOSE, SCRAPING = "docker-compose.yml", "monitoring/prometheus/prometheus.yml"
COORDINATOR = "      - runs:/runs\n      - data:/work/data\n    networks: [pool]\n"
FAULTS = [
    ("@redis:6379/", "@rediss:6379/", "coordinator: no network of it has a rediss"),
    ("@redis:6379/", "@redis:6380/", "coordinator: redis does not listen on 6380"),
    (COORDINATOR, COORDINATOR.replace("pool", "edge"), "coordinator: no network of it has a redis"),
    (COORDINATOR, COORDINATOR.replace("      - runs:/runs\n", ""), "coordinator: nothing is mounted at /runs/digits"),
    ("      - ./experiments:/experiments:ro\n", "", "coordinator: nothing is mounted at /experiments/digits"),
    ("./experiments:/experiments:ro", "./experiment:/experiments:ro", "experiment is mounted and is not there"),
    ("./experiments:/experiments:ro", "./experiments:/experiments", "read_only=False"),
]
SCRAPED = [
    ("names: [server], type: A, port: 9464", "names: [server], type: A, port: 9465", "prometheus: server does not listen on 9465"),
    ("names: [client]", "names: [clients]", "prometheus: no network of it has a clients"),
    ("port: 15692", "port: 15672", "prometheus: rabbitmq does not listen on 15672"),
]


def look(stack: Stack, name: str) -> None:
    """Do all that comes before a container is started."""
    for instance in stack.instances[name]:
        stack.mount(instance)
        stack.environment(instance)
        for word in (*instance.service.command, *instance.service.healthcheck):
            stack.here(word, instance)


def test_nothing_is_wrong_as_it_stands(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for name in stack.services:
        if name != "grafana":  # which has its dashboards mounted inside a volume, and is not run
            look(stack, name)


@pytest.mark.parametrize(("old", "new", "found"), FAULTS)
def test_a_fault_of_the_coordinator(tmp_path: Path, old: str, new: str, found: str) -> None:
    stack = Stack(tmp_path, (COMPOSE, old, new))
    with pytest.raises(AssertionError, match=found):
        look(stack, "coordinator")


@pytest.mark.parametrize(("old", "new", "found"), SCRAPED)
def test_a_target_that_is_not_there(tmp_path: Path, old: str, new: str, found: str) -> None:
    stack = Stack(tmp_path, (SCRAPING, old, new))
    with pytest.raises(AssertionError, match=found):
        look(stack, "prometheus")


def test_a_rule_of_the_broker_that_is_not_mounted(tmp_path: Path) -> None:
    wrong = ("deploy/rabbitmq/rabbitmq.conf", "/etc/rabbitmq/definitions.json", "/etc/rabbit/definitions.json")
    with pytest.raises(AssertionError, match="rabbitmq: nothing is mounted at /etc/rabbit/"):
        look(Stack(tmp_path, wrong), "rabbitmq")
