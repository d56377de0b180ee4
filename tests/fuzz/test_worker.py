"""Ten thousand mutated messages through the decoder and a server worker; ``make fuzz`` sends a million."""

from tests.fuzz.run import run


def test_hostile_messages_between_good_ones() -> None:
    fates = run(10_000, seed=1)
    assert sum(fates.values()) > 8_000
    assert {"refused", "refused again", "duplicate", "stale", "later", "beyond"} <= fates.keys()
