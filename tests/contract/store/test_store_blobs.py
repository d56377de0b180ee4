"""Blobs: the same promises kept by both stores."""

import os
from dataclasses import replace

import pytest

from coordinator.errors import MissingBlob
from coordinator.store.interface import BlobRef, Store
from coordinator.store.redis import CHUNK
from tests.contract.stores import MIB, in_threads


class TestBlobs:
    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * MIB])
    def test_comes_back_as_it_was(self, store: Store, size: int) -> None:
        value = os.urandom(size)
        (ref,) = store.put_blobs("stream/1/a", [value])
        assert ref == BlobRef.of("stream/1/a", value)
        assert store.get_blob(ref) == value

    def test_many_at_once_in_order(self, store: Store) -> None:
        values = [b"one", b"two", b"", b"one"]
        refs = store.put_blobs("s", values)
        assert [store.get_blob(ref) for ref in refs] == values
        assert refs[0] == refs[3]
        assert store.put_blobs("s", values) == refs
        assert store.put_blobs("s", []) == []

    def test_same_value_twice_is_stored_once(self, store: Store) -> None:
        value = os.urandom(8 * MIB)
        (ref,) = store.put_blobs("s", [value])
        before = store.usage().used
        assert store.put_blobs("s", [value, value]) == [ref, ref]
        assert store.usage().used - before < 4 * MIB

    def test_missing(self, store: Store) -> None:
        (ref,) = store.put_blobs("s", [b"value"])
        for other in (replace(ref, scope="t"), replace(ref, digest="0" * 64), replace(ref, size=6), replace(ref, size=2**60)):
            with pytest.raises(MissingBlob):
                store.get_blob(other)

    def test_scopes_are_apart(self, store: Store) -> None:
        (first,), (second,) = store.put_blobs("version/1", [b"same"]), store.put_blobs("version/2", [b"same"])
        assert store.scopes() == ["version/1", "version/2"]
        store.drop_scope("version/1")
        store.drop_scope("version/1")
        assert store.scopes() == ["version/2"]
        assert store.get_blob(second) == b"same"
        with pytest.raises(MissingBlob):
            store.get_blob(first)

    def test_a_scope_ends_with_its_last_blob(self, store: Store) -> None:
        refs = store.put_blobs("s", [b"", b"b", os.urandom(2 * CHUNK)]) + store.put_blobs("t", [b"b"])
        store.drop_blobs(refs[:1])
        assert store.scopes() == ["s", "t"]
        store.drop_blobs(refs)
        store.drop_blobs(refs)
        assert store.scopes() == []
        for ref in refs:
            with pytest.raises(MissingBlob):
                store.get_blob(ref)

    def test_usage_counts_them(self, store: Store) -> None:
        before = store.usage().used
        store.put_blobs("s", [os.urandom(32 * MIB)])
        assert store.usage().used - before >= 16 * MIB  # a server also frees buffers of its own meanwhile
        assert store.usage().limit is None

    def test_many_threads_put_and_get(self, store: Store) -> None:
        values = [bytes([n]) * (CHUNK + n) for n in range(8)]

        def put(thread: int) -> None:
            refs = store.put_blobs(f"scope/{thread % 2}", values[thread:] + values[:thread])
            assert [store.get_blob(ref) for ref in refs] == values[thread:] + values[:thread]

        in_threads(4, put)
        assert store.scopes() == ["scope/0", "scope/1"]
