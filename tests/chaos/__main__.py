"""``python -m tests.chaos --seeds 0-99``: one run under faults for every seed, a line each."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.chaos.plan import make_plan
from tests.chaos.run import run_seed, started_servers
from tests.end_to_end.undisturbed import Undisturbed


def main() -> None:
    """Run every seed, whatever became of the one before; exit with 1 if any failed."""
    options = _options()
    if options.plans:
        print(*map(make_plan, options.seeds), sep="\n")
        return
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    lines = output / "results.jsonl"
    failed = []
    with tempfile.TemporaryDirectory() as folder, started_servers(Path(folder)) as servers, lines.open("a") as file:
        print(f"at {_commit()}; results in {lines}, logs of seeds that fail beside it", flush=True)
        undisturbed = Undisturbed(Path(folder))
        for seed in options.seeds:
            result = run_seed(make_plan(seed), servers, undisturbed, output / f"seed-{seed:04}")
            print(result, flush=True)
            print(result.to_json(), file=file, flush=True)
            if result.differs:
                failed.append(seed)
    print(f"{len(options.seeds) - len(failed)} of {len(options.seeds)} runs ended as if nothing had happened")
    if failed:
        sys.exit(f"failed: seeds {', '.join(map(str, failed))}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=main.__doc__)
    parser.add_argument("--seeds", type=_seeds, default=_seeds("0-9"), help="such as 0-99 or 3,7,20-29")
    parser.add_argument("--output", type=Path, default=Path("runs/chaos"), help="folder of results.jsonl and logs")
    parser.add_argument("--plans", action="store_true", help="print what would happen, and do nothing")
    return parser.parse_args()


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def _commit() -> str:
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "no commit"


if __name__ == "__main__":
    main()
