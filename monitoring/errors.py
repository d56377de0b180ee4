"""What can go wrong while a run is looked at."""


class ReportError(Exception):
    """A report cannot be made of a folder, or cannot be written; the message names the file."""
