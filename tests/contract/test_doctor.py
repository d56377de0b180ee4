"""`splitee doctor` against real servers, there and gone."""

from cli.doctor import Check, examine
from cli.private_servers import PrivateServer


def servers(broker: str, store: str) -> dict[str, Check]:
    return {check.name: check for check in examine(broker, store) if check.name in ("broker", "store")}


def test_servers_that_are_there(rabbitmq_url: str, redis_url: str) -> None:
    found = servers(rabbitmq_url, redis_url)
    assert [check.ok for check in found.values()] == [True, True]


def test_servers_that_are_gone_or_refuse(rabbitmq_url: str, redis_server: PrivateServer) -> None:
    redis_server.kill()
    scheme, _, rest = rabbitmq_url.partition("://")
    wrong_password = f"{scheme}://nobody:secret@{rest.rpartition('@')[2]}"
    found = servers(wrong_password, redis_server.url)
    assert [check.failed for check in found.values()] == [True, True]
    assert not any("secret" in check.found for check in found.values())
