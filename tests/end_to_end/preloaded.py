"""What the process has imported and built that all commands of the tests are forked from: seconds of each of them otherwise."""
# ruff: noqa: F401

import cli.train
import coordinator.store.redis
import tests.end_to_end.harness
from cli.main import command_line
from learning.settings import DataSettings
from learning.sources import open_dataset

command_line()
open_dataset(DataSettings(name="digits"), seed=0)
