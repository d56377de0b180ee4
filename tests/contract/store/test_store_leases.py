"""Leases: the same promises kept by both stores."""

from dataclasses import replace

import pytest

from coordinator.store.interface import Lease, Outcome, Store
from tests.contract.stores import LONG, SHORT, Backend, in_threads, passed, taken, write


class TestLeases:
    def test_held_by_one_at_a_time(self, store: Store) -> None:
        lease = taken(store)
        assert lease == Lease("stream/1", 1, "n1", LONG)
        assert store.acquire("stream/1", "n2", "other", LONG) is None
        assert taken(store, "stream/2", "n2").epoch == 1

    def test_holder_is_named(self, store: Store) -> None:
        assert store.holder("stream/1") is None
        taken(store)
        holder = store.holder("stream/1")
        assert holder is not None
        assert (holder.holder, holder.epoch) == ("worker-n1", 1)
        assert 0 < holder.remaining <= LONG

    def test_every_new_holder_has_the_next_epoch(self, store: Store) -> None:
        for epoch in range(1, 5):
            lease = taken(store, nonce=f"n{epoch}")
            assert lease.epoch == epoch
            store.release(lease)
            assert store.holder("stream/1") is None

    def test_same_nonce_keeps_the_epoch_and_renews(self, store: Store) -> None:
        first = taken(store, ttl=10.0)
        again = taken(store, ttl=LONG)
        assert again.epoch == first.epoch
        holder = store.holder("stream/1")
        assert holder is not None
        assert holder.remaining > 500

    def test_renew_extends_by_the_ttl(self, store: Store) -> None:
        lease = taken(store, ttl=10.0)
        assert store.renew(replace(lease, ttl=LONG))
        holder = store.holder("stream/1")
        assert holder is not None
        assert holder.remaining > 500

    def test_a_passed_lease_cannot_be_renewed(self, backend: Backend) -> None:
        lease = passed(backend)
        assert backend.store.holder("stream/1") is None
        assert not backend.store.renew(lease)
        assert backend.store.holder("stream/1") is None

    def test_a_passed_lease_is_another_epoch_even_for_its_last_holder(self, backend: Backend) -> None:
        assert passed(backend).epoch == 1
        assert taken(backend.store).epoch == 2

    def test_a_stale_holder_can_do_nothing_to_the_next(self, backend: Backend) -> None:
        stale = passed(backend)
        current = taken(backend.store, nonce="n2")
        assert current.epoch == 2
        assert not backend.store.renew(stale)
        backend.store.release(stale)
        assert backend.store.renew(current)
        assert backend.store.transact([write("a", "v1")], fence=stale) is Outcome.FENCED
        assert backend.store.transact([write("a", "v1")], fence=current) is Outcome.DONE

    @pytest.mark.parametrize("forged", [{"epoch": 2}, {"epoch": 0}, {"nonce": "n2"}, {"name": "stream/2"}])
    def test_epoch_and_nonce_must_both_be_right(self, store: Store, forged: dict[str, object]) -> None:
        lease = replace(taken(store), **forged)
        assert not store.renew(lease)
        store.release(lease)
        assert store.transact([write("a", "v1")], fence=lease) is Outcome.FENCED
        assert store.holder("stream/1") is not None

    def test_one_of_many_threads_gets_a_lease(self, store: Store) -> None:
        for name in ("a", "b", "c"):
            leases = in_threads(8, lambda n, name=name: store.acquire(name, f"n{n}", f"w{n}", LONG))
            assert len([lease for lease in leases if lease]) == 1

    def test_holders_that_went_without_a_word_are_counted(self, backend: Backend) -> None:
        assert [passed(backend, nonce=f"n{number}").lost for number in range(3)] == [0, 1, 2]
        taken(backend.store, nonce="n3")
        again = taken(backend.store, nonce="n3", ttl=SHORT)
        assert again.lost == 3, "the same holder, asking again"
        backend.wait(2 * SHORT)
        assert taken(backend.store, nonce="n4").lost == 4

    def test_holders_that_gave_back_or_wrote_or_were_put_off_are_not(self, backend: Backend) -> None:
        store = backend.store
        passed(backend)
        store.release(taken(store))
        assert passed(backend, nonce="n2").lost == 0
        wrote = taken(store, nonce="n3")
        assert wrote.lost == 1
        assert store.transact([write("a", "v1")], fence=wrote) is Outcome.DONE
        assert passed(backend, nonce="n3").lost == 0, "it made a step forward"
        assert passed(backend, nonce="n4").lost == 1
        assert store.transact([write("b", "v1")], bump=["stream/1"]) is Outcome.DONE
        assert taken(store, nonce="n4").lost == 0
