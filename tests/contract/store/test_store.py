"""Transactions and wipe: the same promises kept by both stores."""

from dataclasses import replace

import pytest

from coordinator.errors import MissingBlob
from coordinator.store.interface import Outcome, Store, Write
from tests.contract.stores import Backend, in_threads, passed, taken, write


class TestTransactions:
    def test_creates_changes_and_deletes(self, store: Store) -> None:
        assert store.read(["a"]) == [None]
        assert store.transact([write("a", "v1", value=b"\0one\xff")]) is Outcome.DONE
        assert [(d.value, d.version) for d in store.read(["a"]) if d] == [(b"\0one\xff", "v1")]
        assert store.transact([write("a", "v2", "v1", b"")]) is Outcome.DONE
        assert [(d.value, d.version) for d in store.read(["a"]) if d] == [(b"", "v2")]
        assert store.transact([write("a", "v3", "v2", None)]) is Outcome.DONE
        assert store.read(["a"]) == [None]

    def test_reads_in_the_order_of_keys(self, store: Store) -> None:
        store.transact([write("a", "v1"), write("b", "v2")])
        assert [d.version if d else None for d in store.read(["b", "x", "a", "b"])] == ["v2", None, "v1", "v2"]
        assert store.read([]) == []

    def test_a_great_many_at_once(self, store: Store) -> None:
        writes = [write(f"{n:05}", f"v{n}") for n in range(10_000)]
        assert store.transact(writes) is Outcome.DONE
        assert [d.version for d in store.read([w.key for w in writes]) if d] == [w.version for w in writes]
        assert store.keys("") == [w.key for w in writes]

    def test_keys_by_prefix_sorted(self, store: Store) -> None:
        store.transact([write(key, f"v{key}") for key in ("round/000010", "round/000002", "state", "round*", "über/1")])
        assert store.keys("round/") == ["round/000002", "round/000010"]
        assert store.keys("round*") == ["round*"]
        assert store.keys("über") == ["über/1"]
        assert store.keys("") == sorted(["round/000010", "round/000002", "state", "round*", "über/1"])

    @pytest.mark.parametrize("expected", [None, "v0", "v2"])
    def test_another_version_is_a_conflict(self, store: Store, expected: str | None) -> None:
        store.transact([write("a", "v1", value=b"first")])
        assert store.transact([write("a", "v9", expected, b"second")]) is Outcome.CONFLICT
        assert store.transact([write("missing", "v9", "v1")]) is Outcome.CONFLICT
        assert [(d.value, d.version) for d in store.read(["a"]) if d] == [(b"first", "v1")]
        assert store.read(["missing"]) == [None]

    def test_all_or_nothing(self, store: Store) -> None:
        store.transact([write("b", "v1"), write("c", "v1")])
        refused = [write("a", "v2"), write("b", "v2", "v1"), write("c", "v2", "old"), write("d", "v2")]
        assert store.transact(refused, bump=["stream/1"]) is Outcome.CONFLICT
        assert [d.version if d else None for d in store.read(["a", "b", "c", "d"])] == [None, "v1", "v1", None]
        assert taken(store).epoch == 1
        accepted = [write("a", "v2"), write("b", "v2", "v1"), write("c", "v2", "v1", None)]
        assert store.transact(accepted) is Outcome.DONE
        assert [d.version if d else None for d in store.read(["a", "b", "c"])] == ["v2", "v2", None]

    def test_sent_twice_takes_effect_once(self, store: Store) -> None:
        store.transact([write("old", "v0")])
        writes = [write("a", "v1"), write("old", "v2", "v0", None)]
        assert store.transact(writes, bump=["stream/1"]) is Outcome.DONE
        assert store.transact(writes, bump=["stream/1"]) is Outcome.ALREADY_DONE
        assert taken(store).epoch == 2

    def test_sent_again_after_somebody_moved_on_is_a_conflict(self, store: Store) -> None:
        first = [write("a", "v1")]
        store.transact(first)
        store.transact([write("a", "v2", "v1", b"newer")])
        assert store.transact(first) is Outcome.CONFLICT
        assert [d.value for d in store.read(["a"]) if d] == [b"newer"]

    def test_partly_at_its_new_version_is_not_already_done(self, store: Store) -> None:
        store.transact([write("a", "v1")])
        assert store.transact([write("a", "v1"), write("b", "v1")]) is Outcome.CONFLICT
        assert store.read(["b"]) == [None]

    def test_a_delete_is_done_while_the_document_is_missing(self, store: Store) -> None:
        delete = write("a", "v2", "v1", None)
        assert store.transact([delete]) is Outcome.ALREADY_DONE
        store.transact([write("a", "v9")])
        assert store.transact([delete]) is Outcome.CONFLICT

    def test_already_done_comes_before_fenced(self, store: Store) -> None:
        lease = taken(store)
        writes = [write("a", "v1")]
        assert store.transact(writes, fence=lease) is Outcome.DONE
        store.release(lease)
        assert store.transact(writes, fence=lease) is Outcome.ALREADY_DONE

    def test_fenced_comes_before_conflict(self, store: Store) -> None:
        lease = taken(store)
        store.release(lease)
        store.transact([write("a", "v1")])
        assert store.transact([write("a", "v3", "v2")], fence=lease) is Outcome.FENCED
        assert store.transact([write("b", "v1")], fence=lease) is Outcome.FENCED
        assert store.read(["b"]) == [None]

    def test_a_passed_lease_fences_before_anybody_takes_it(self, backend: Backend) -> None:
        lease = passed(backend)
        assert backend.store.transact([write("a", "v1")], fence=lease) is Outcome.FENCED

    def test_bump_takes_leases_from_whoever_holds_them(self, store: Store) -> None:
        leader, worker = taken(store, "leader"), taken(store, "stream/1", "n2")
        assert store.transact([write("round", "v1")], fence=leader, bump=["stream/1", "stream/2"]) is Outcome.DONE
        assert store.holder("stream/1") is None
        assert not store.renew(worker)
        assert store.transact([write("a", "v1")], fence=worker) is Outcome.FENCED
        assert store.renew(leader)
        assert taken(store, "stream/1", "n3").epoch == 3
        assert taken(store, "stream/2", "n3").epoch == 2

    def test_a_refused_transaction_bumps_nothing(self, store: Store) -> None:
        worker = taken(store)
        assert store.transact([write("a", "v2", "v1")], bump=["stream/1"]) is Outcome.CONFLICT
        assert store.transact([write("a", "v1")], fence=replace(worker, nonce="x"), bump=["stream/1"]) is Outcome.FENCED
        assert store.renew(worker)

    @pytest.mark.parametrize(
        ("writes", "bump"),
        [
            ([write("a", "v1"), write("a", "v2", "v1")], []),
            ([write("a", "")], []),
            ([write("a", "v1", "")], []),
            ([], ["stream/1"]),
        ],
    )
    def test_what_could_not_be_repeated_is_not_accepted(self, store: Store, writes: list[Write], bump: list[str]) -> None:
        with pytest.raises(ValueError, match=r"transaction|version"):
            store.transact(writes, bump=bump)

    def test_one_thread_wins_each_version(self, store: Store) -> None:
        """Threads count up one document; every success must be a step of its own."""
        store.transact([write("counter", "start", value=b"0")])

        def count(thread: int) -> None:
            done = 0
            while done < 10:
                (document,) = store.read(["counter"])
                assert document is not None
                version, value = f"{thread}-{done}-{document.version}", b"%d" % (int(document.value) + 1)
                outcome = store.transact([write("counter", version, document.version, value)])
                assert outcome in (Outcome.DONE, Outcome.CONFLICT)
                done += outcome is Outcome.DONE

        in_threads(8, count)
        assert [d.value for d in store.read(["counter"]) if d] == [b"80"]


def test_wipe_leaves_nothing(store: Store) -> None:
    lease = taken(store)
    store.transact([write("a", "v1")], fence=lease)
    (ref,) = store.put_blobs("s", [b"value"])
    store.wipe()
    assert store.keys("") == []
    assert store.scopes() == []
    assert store.holder("stream/1") is None
    assert not store.renew(lease)
    with pytest.raises(MissingBlob):
        store.get_blob(ref)
    assert taken(store).epoch == 1
