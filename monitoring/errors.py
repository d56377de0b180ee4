"""What can go wrong while a run is looked at."""


class MonitoringError(Exception):
    """Base of every error that this package raises on purpose."""


class ReportError(MonitoringError):
    """A report cannot be made of a folder, or cannot be written; the message names the file."""


class ExporterError(MonitoringError):
    """Metrics cannot be served; the message names address and port."""
