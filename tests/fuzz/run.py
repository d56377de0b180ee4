"""Mutated messages through the decoder and a real server worker: ``python -m tests.fuzz.run --count 1000000 --seed 0``."""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported

import resource
import sys
import time
from collections import Counter
from typing import TextIO

from tests.fuzz.sitting import Outcome, Sitting

PER_SITTING = 10_000


def run(count: int, seed: int, out: TextIO = sys.stdout) -> Counter[str]:
    """Run sittings until so many mutated messages have been through; return how many met which fate.

    Raises AssertionError, naming the sitting, if a worker fails, hangs, or trains anything but the good messages.
    """
    fates: Counter[str] = Counter()
    began, done, number = time.monotonic(), 0, 0
    expected = Sitting(f"{seed}/reference").run(0)
    while done < count:
        name = f"{seed}/{number}"
        sitting = Sitting(name)
        try:
            outcome = sitting.run(min(PER_SITTING, count - done))
            check(outcome, expected)
        except AssertionError as error:
            raise AssertionError(f"sitting {name}: {error}") from error
        done, number = done + sitting.published, number + 1
        for traffic in outcome.traffic.values():
            fates.update(traffic.fates)
        rate, memory = done / (time.monotonic() - began), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{done:>9,} messages, {rate:,.0f} a second, {memory} MiB at most", file=out, flush=True)
    return fates


def check(outcome: Outcome, expected: Outcome) -> None:
    """Fail unless exactly the good messages were trained and answered, and everything else was refused with a reason."""
    letters, large = outcome.refused_requests, 0
    for name, stream in outcome.streams.items():
        reference = expected.streams[name]
        assert stream.status == "committed"
        assert {number: ref.digest for number, ref in stream.layers.items()} == {
            number: ref.digest for number, ref in reference.layers.items()
        }, f"stream {name} trained something else than the good messages"
        assert {client: ref.digest for client, ref in stream.halves.items()} == {
            client: ref.digest for client, ref in reference.halves.items()
        }
        for client, progress in stream.clients.items():
            traffic, tallies = outcome.traffic[client], progress.tallies
            assert (progress.sequence, progress.ended, progress.closed) == (traffic.slots, True, "")
            assert [hole.sequence for hole in progress.holes] == traffic.holes
            assert tallies.samples == reference.clients[client].tallies.samples
            assert 0 <= tallies.refused - traffic.fates["refused"] <= traffic.fates["large later"]
            duplicates = sum(traffic.fates[fate] for fate in ("duplicate", "stale", "refused again", "large again"))
            assert duplicates <= tallies.duplicates <= duplicates + traffic.fates["beyond"], "duplicates are counted wrongly"
            letters += tallies.refused + traffic.fates["refused again"]
            large += traffic.fates["large again"]
    assert outcome.streams.keys() == expected.streams.keys()
    assert outcome.answers == expected.answers, "good requests were answered differently"
    assert all(outcome.answers.values())
    assert 0 <= outcome.letters - letters <= large, f"{outcome.letters} dead letters of {letters} refused messages"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"{options.count:,} messages mutated by random.Random (Mersenne Twister), seed {options.seed}")
    for fate, times in run(options.count, options.seed).most_common():
        print(f"{times:>9,} {fate}")


if __name__ == "__main__":
    main()
