"""docker-compose.yml as a document: what the specification, this project and a machine that others use too ask of it."""

import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from typer.core import TyperGroup
from typer.main import get_command

from cli.compose import CLIENTS, DEFINITIONS, PORTS, write_secrets
from cli.main import app
from coordinator.experiment import load_experiment
from tests.compose import ROOT, MissingVariable, Service, document, environment_file, interpolated, services

TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
REQUIRED = set(re.findall(r"\$\{(\w+):\?", TEXT))
GRAFANA = ROOT / "monitoring" / "grafana"


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "docker-compose.yml").touch()
    write_secrets(folder, force=False)
    return environment_file((folder / ".env").read_text())


@pytest.fixture(scope="module")
def stack(variables: dict[str, str]) -> dict[str, Service]:
    return services(ROOT, variables)


def test_it_is_valid_by_the_compose_specification() -> None:
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    validator = validator_for(schema, default=Draft202012Validator)(schema)
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(document())] == []
    wrong = document()
    wrong["services"]["redis"]["commands"] = "x"
    assert not validator.is_valid(wrong)


def test_a_secret_that_is_missing_is_one_line(variables: dict[str, str]) -> None:
    """Whichever it is: Compose says it before it starts anything."""
    assert {"REDIS_PASSWORD", "POOL_PASSWORD", "GRAFANA_PASSWORD", "GRAFANA_SECRET_KEY"} < REQUIRED
    for name in REQUIRED:
        for rest in ({k: v for k, v in variables.items() if k != name}, {**variables, name: ""}):
            with pytest.raises(MissingVariable) as caught:
                services(ROOT, rest)
            assert str(caught.value) == f"required variable {name} is missing a value: run: splitee init --compose"


def test_the_secrets_that_are_made_are_those_that_are_asked_for(variables: dict[str, str]) -> None:
    assert set(variables) - set(PORTS) == REQUIRED
    for name, port in PORTS.items():
        assert f"${{{name}:-{port}}}" in TEXT


def test_no_password_has_a_default(stack: dict[str, Service], variables: dict[str, str]) -> None:
    made = {value for name, value in variables.items() if name not in PORTS}
    for service in stack.values():
        secret = [value for name, value in service.environment.items() if re.search("PASSWORD|SECRET|AUTH$", name)]
        secret += [password for value in service.environment.values() for password in re.findall(r"://[^:/]*:([^@]*)@", value)]
        secret += [after for flag, after in pairwise(service.command) if flag == "--requirepass"]
        assert set(secret) <= made, service.name
        assert secret or service.name in ("rabbitmq", "prometheus", "gpu"), "which have no password of their own"


def test_published_ports_are_this_machine_s_alone(stack: dict[str, Service]) -> None:
    published = {service.name: service.ports for service in stack.values() if service.ports}
    assert published == {"prometheus": [("127.0.0.1", 9090, 9090)], "grafana": [("127.0.0.1", 3000, 3000)]}
    moved = services(ROOT, {**dict.fromkeys(REQUIRED, "x"), "GRAFANA_PORT": "3111", "PROMETHEUS_PORT": "9111"})
    assert [moved[name].ports[0][1] for name in ("grafana", "prometheus")] == [3111, 9111]


def test_every_service_is_watched_bounded_and_started_again(stack: dict[str, Service]) -> None:
    for service in stack.values():
        raw = service.raw
        assert raw["restart"] == ("on-failure" if service.is_role else "unless-stopped")
        assert re.fullmatch(r"\d+G", raw["deploy"]["resources"]["limits"]["memory"])
        assert raw["init"] is True
        assert not service.is_role or service.healthcheck == ["python", "-m", "monitoring.probe"], "test_compose runs it"
        assert raw["logging"]["options"]["max-size"]
        assert service.is_role or re.search(r":v?\d+\.\d+\.\d+$", service.image), f"{service.image} may be another one tomorrow"
        assert "privileged" not in raw


def test_roles_can_write_only_where_they_must(stack: dict[str, Service]) -> None:
    for service in stack.values():
        if service.is_role:
            assert (service.raw["read_only"], service.raw["cap_drop"], service.raw["tmpfs"]) == (True, ["ALL"], ["/tmp"])
            assert service.environment["SPLITEE_METRICS_ADDRESS"] == "0.0.0.0", "Prometheus is another container"
        if service.name.startswith("client-"):
            assert "SPLITEE_STORE_URL" not in service.environment
            assert service.networks.keys().isdisjoint(stack["redis"].networks)


def test_volumes_and_networks_are_all_used_and_all_named(stack: dict[str, Service]) -> None:
    used = {mount.source for service in stack.values() for mount in service.mounts if mount.kind == "volume"}
    assert used == set(document()["volumes"])
    assert {network for service in stack.values() for network in service.networks} == set(document()["networks"])
    for mount in (mount for service in stack.values() for mount in service.mounts if mount.kind == "bind"):
        assert mount.source == DEFINITIONS or (ROOT / mount.source).exists(), mount
        assert mount.read_only


def test_every_role_s_command_and_variables_are_known(stack: dict[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of the service that wants a GPU."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    shared = {parameter.envvar for parameter in group.params}
    for service in (service for service in stack.values() if service.is_role):
        name, *words = service.command
        command = group.commands[name]
        assert set(service.environment) <= shared | {parameter.envvar for parameter in command.params}, service.name
        with monkeypatch.context() as patch:
            for variable, value in service.environment.items():
                patch.setenv(variable, value)
            command.make_context(name, words)


def test_the_clients_are_the_experiment_s_roster(stack: dict[str, Service], variables: dict[str, str]) -> None:
    roster = load_experiment(ROOT / "experiments" / "digits.toml", (), {}).clients.roster()
    clients = [service for name, service in stack.items() if name.startswith("client-")]
    assert [service.name for service in clients] == [entry.id for entry in roster] == list(CLIENTS)
    for service, entry in zip(clients, roster, strict=True):
        flags = dict(zip(service.command[1::2], service.command[2::2], strict=True))
        assert flags == {"--run": "digits", "--id": entry.id, "--cut": str(entry.cut), "--state": f"/state/{entry.id}"}
        password = variables[f"{entry.id.replace('-', '_').upper()}_PASSWORD"]
        assert service.environment["SPLITEE_BROKER_URL"] == f"amqp://{entry.id}:{password}@rabbitmq:5672/"


def test_the_gpu_s_service_starts_only_when_asked_for(stack: dict[str, Service]) -> None:
    assert [service.name for service in stack.values() if service.profiles] == ["gpu"]
    gpu = stack["gpu"].raw
    assert gpu["deploy"]["resources"]["reservations"]["devices"] == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert gpu["build"]["args"]["TORCH_INDEX"] == "https://pypi.org/simple"
    assert gpu["image"] != stack["coordinator"].image
    assert stack["gpu"].networks["pool"] == {"gpu", "coordinator"}, "Prometheus finds it"
    file = stack["gpu"].command[1].replace("/experiments/", "")
    assert load_experiment(ROOT / "experiments" / file, [stack["gpu"].command[-1]], {}).name == "digits-gpu"


def test_every_image_of_ours_is_built_by_some_service(stack: dict[str, Service]) -> None:
    built = {service.image for service in stack.values() if "build" in service.raw}
    assert {service.image for service in stack.values() if service.is_role} == built
    for service in stack.values():
        build = service.raw.get("build", ".")
        assert (build if isinstance(build, str) else build["context"]) == "."


def test_grafana_finds_what_is_mounted_and_tells_nobody(stack: dict[str, Service]) -> None:
    """Grafana itself does not run here: this is about its settings and files."""
    grafana, mounts = stack["grafana"], {mount.target: mount.source for mount in stack["grafana"].mounts}
    environment = grafana.environment
    for name in ("AUTH_ANONYMOUS_ENABLED", "USERS_ALLOW_SIGN_UP", "ANALYTICS_REPORTING_ENABLED", "ANALYTICS_CHECK_FOR_UPDATES"):
        assert environment[f"GF_{name}"] == "false"
    provisioning = ROOT / mounts["/etc/grafana/provisioning"]
    (provider,) = _yaml(provisioning / "dashboards")["providers"]
    assert mounts[provider["options"]["path"]] == "monitoring/grafana/dashboards"
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (GRAFANA / "dashboards" / home.name).exists()
    (source,) = _yaml(provisioning / "datasources")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert grafana.networks.keys() & stack["prometheus"].networks.keys()
    scraping = yaml.safe_load((ROOT / "monitoring" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    for file in scraping["rule_files"]:
        assert (ROOT / "monitoring" / "prometheus" / file).exists()


def test_the_reader_fills_in_variables_as_compose_does() -> None:
    assert interpolated(["${A}", "${A:-b}", "${A-b}", "$$A", {"x": "${B:-b}${B-c}"}], {"A": "", "B": "2"}) == [
        "", "b", "", "$A", {"x": "22"},
    ]  # fmt: skip
    with pytest.raises(MissingVariable, match="required variable C is missing a value: why"):
        interpolated("${C?why}", {})


def _yaml(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("*.y*ml")
    return dict(yaml.safe_load(file.read_text()))
