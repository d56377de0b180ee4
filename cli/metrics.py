"""Where a role's metrics are served, as the command line says it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from broker.events import Emit, Event
from monitoring.exporter import Exporter, Health
from monitoring.metric_table import Role
from monitoring.metrics import Metrics


@dataclass(frozen=True)
class MetricsAt:
    """Where to serve metrics. port None: nowhere. by_client: what clients count is told for each of them."""

    port: int | None
    address: str
    by_client: bool = False

    def beside(self, place: int) -> "MetricsAt":
        """Return where another process of the same command serves: so many ports further, or at any free one as this does."""
        return replace(self, port=self.port + place if self.port else self.port)


NOWHERE = MetricsAt(None, "")


@contextmanager
def exported(
    at: MetricsAt, role: Role, emit: Emit, say: Callable[[str], None], client: tuple[str, int] | None = None
) -> Iterator[tuple[Emit, Health]]:
    """Serve a role's metrics while the block runs, if they are asked for.

    Yields where the role's events go, on to ``emit`` too, and its health, to be told what to watch. client: its id and cut, if
    it is one. Raises ExporterError if the port cannot be listened on.
    """
    health = Health(role)
    if at.port is None:
        yield emit, health
        return
    metrics = Metrics(role, client=client, by_client=at.by_client, reachable=health.reachable)

    def both(event: Event) -> None:
        metrics(event)
        emit(event)

    with Exporter(at.address, at.port, metrics.registry, health) as exporter:
        say(f"metrics at {exporter.url}")
        try:
            yield both, health
        finally:
            health.end()
