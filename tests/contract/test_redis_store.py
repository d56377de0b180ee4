"""What only a store behind a network can do wrong: lost replies, interrupted uploads, servers that are gone, full or not ours."""

import gc
import os
import socket
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from cli.private_servers import PrivateServer
from coordinator.errors import DamagedDocument, MissingBlob, StoreFull, StoreRefused, StoreUnavailable
from coordinator.store.interface import BlobRef, Outcome, Write
from coordinator.store.redis import CHUNK, RedisStore
from tests.proxy import Proxy, proxied

MIB = 2**20
CREATE = [Write("a", b"value", None, "v1")]


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxied(redis_url) as proxy:
        yield proxy


@pytest.fixture
def store(redis_url: str, run_name: str) -> Iterator[RedisStore]:
    store = RedisStore(redis_url, run_name)
    yield store
    store.wipe()
    store.close()


class TestLostReplies:
    def test_a_transaction_takes_effect_once(self, store: RedisStore, proxy: Proxy, run_name: str) -> None:
        behind = RedisStore(proxy.url, run_name)
        assert behind.transact([Write("warm", b"", None, "v0")]) is Outcome.DONE
        proxy.lose_replies(2, to=b"v1")
        assert behind.transact(CREATE, bump=["stream/1"]) is Outcome.ALREADY_DONE
        assert proxy.replies_to_lose == 0
        lease = store.acquire("stream/1", "n", "h", 10.0)
        assert lease is not None
        assert lease.epoch == 2
        behind.close()

    def test_a_lease_is_taken_once(self, store: RedisStore, proxy: Proxy, run_name: str) -> None:
        behind = RedisStore(proxy.url, run_name)
        assert behind.holder("stream/1") is None
        proxy.lose_replies(2, to=b"nonce1")
        lease = behind.acquire("stream/1", "nonce1", "h", 10.0)
        assert proxy.replies_to_lose == 0
        assert lease is not None
        assert lease.epoch == 1
        assert store.renew(lease)
        behind.close()


def test_a_failure_leaves_nothing_to_the_garbage_collector(store: RedisStore, proxy: Proxy, run_name: str) -> None:
    behind = RedisStore(proxy.url, run_name, timeout=0.5)
    assert behind.scopes() == []
    proxy.cut(stay_down=True)
    held: list[weakref.ref[object]] = []

    class Replica:
        """What is being saved: megabytes."""

    def save(replica: Replica) -> None:
        held.append(weakref.ref(replica))
        behind.put_blobs("s", [b"its bytes"])

    gc.disable()
    try:
        with suppress(StoreUnavailable):
            save(Replica())
        assert held[0]() is None
    finally:
        gc.enable()
    behind.close()


class TestInterruptedPut:
    VALUE = os.urandom(5 * CHUNK)

    @pytest.fixture
    def ref(self, store: RedisStore, proxy: Proxy, run_name: str) -> BlobRef:
        """What a put was interrupted at, after two chunks and a half."""
        behind = RedisStore(proxy.url, run_name, timeout=0.5)
        assert behind.scopes() == []
        proxy.after(5 * CHUNK // 2, lambda: proxy.cut(stay_down=True))
        with pytest.raises(StoreUnavailable):
            behind.put_blobs("s", [self.VALUE])
        behind.close()
        return BlobRef.of("s", self.VALUE)

    def test_leaves_no_value(self, store: RedisStore, ref: BlobRef) -> None:
        with pytest.raises(MissingBlob):
            store.get_blob(ref)

    def test_is_completed_by_the_next(self, store: RedisStore, ref: BlobRef) -> None:
        assert store.put_blobs("s", [self.VALUE]) == [ref]
        assert store.get_blob(ref) == self.VALUE

    def test_goes_with_its_scope(self, store: RedisStore, ref: BlobRef, redis_url: str, run_name: str) -> None:
        assert store.scopes() == ["s"]
        store.drop_scope("s")
        assert keys_of(redis_url, run_name) == []


def test_a_put_whose_scope_is_dropped_meanwhile_is_not_taken_for_done(store: RedisStore, proxy: Proxy, run_name: str) -> None:
    behind = RedisStore(proxy.url, run_name)
    assert behind.scopes() == []
    proxy.after(5 * CHUNK // 2, lambda: store.drop_scope("s"))
    with pytest.raises(MissingBlob, match="scope s was dropped"):
        behind.put_blobs("s", [os.urandom(5 * CHUNK)])
    behind.close()
    assert store.scopes() == ["s"], "what came after the drop is not listed"


def test_a_damaged_chunk_is_a_missing_blob(store: RedisStore, redis_url: str, run_name: str) -> None:
    (ref,) = store.put_blobs("s", [os.urandom(CHUNK + 7)])
    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"splitee:{{{run_name}}}:blobs:s", f"{ref.digest}:1", b"1234567")
    with pytest.raises(MissingBlob, match="damaged"):
        store.get_blob(ref)


@pytest.mark.parametrize(("hash", "field"), [("versions", b"\xff"), ("documents", None)])
def test_a_document_that_no_role_has_written(
    store: RedisStore, redis_url: str, run_name: str, hash: str, field: bytes | None
) -> None:
    store.transact(CREATE)
    with redis.Redis.from_url(redis_url) as client:
        name = f"splitee:{{{run_name}}}:{hash}"
        client.hdel(name, "a") if field is None else client.hset(name, "a", field)
    with pytest.raises(DamagedDocument, match="document a in the store is damaged"):
        store.read(["a"])


def test_names_that_are_no_text(store: RedisStore, redis_url: str, run_name: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.sadd(f"splitee:{{{run_name}}}:scopes", b"\xff\n")
        client.hset(f"splitee:{{{run_name}}}:versions", b"\xff", b"v")
    assert store.scopes() == ["\\xff\n"]
    assert store.keys("") == ["\\xff"]


def test_a_lost_chunk_is_put_again(store: RedisStore, redis_url: str, run_name: str) -> None:
    value = os.urandom(CHUNK + 7)
    (ref,) = store.put_blobs("s", [value])
    with redis.Redis.from_url(redis_url) as client:
        client.hdel(f"splitee:{{{run_name}}}:blobs:s", f"{ref.digest}:1")
    with pytest.raises(MissingBlob, match="not in the store"):
        store.get_blob(ref)
    store.put_blobs("s", [value])
    assert store.get_blob(ref) == value


def test_dropped_blobs_leave_no_key(store: RedisStore, redis_url: str, run_name: str) -> None:
    refs = store.put_blobs("s", [b"", os.urandom(2 * CHUNK)])
    store.put_blobs("t", [b"value"])
    store.drop_blobs(refs)
    store.drop_scope("t")
    assert keys_of(redis_url, run_name) == []


def test_wipe_leaves_other_runs_alone(redis_url: str, run_name: str) -> None:
    pattern, other = RedisStore(redis_url, f"{run_name}*[a]?"), RedisStore(redis_url, f"{run_name}-b-a?")
    for store in (pattern, other):
        store.transact(CREATE)
        store.put_blobs("s", [b"value"])
    pattern.wipe()
    assert pattern.keys("") == []
    assert other.keys("") == ["a"]
    other.wipe()
    assert keys_of(redis_url, run_name) == []


class TestServersThatCannotBeUsed:
    def test_nothing_listens(self, run_name: str) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            store = RedisStore(f"redis://:secret@127.0.0.1:{port}", run_name, timeout=0.2)
            with pytest.raises(StoreUnavailable, match=rf"Redis at redis://127.0.0.1:{port} does not answer.*--store") as caught:
                store.read(["a"])
        assert "secret" not in str(caught.value)

    def test_wrong_password(self, redis_server: PrivateServer, run_name: str) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("requirepass", "right")
        for login in (":secret@", "", "nobody:secret@"):
            store = RedisStore(redis_server.url.replace("//", f"//{login}"), run_name)
            with pytest.raises(StoreRefused, match="password or user") as caught:
                store.transact(CREATE)
            assert "secret" not in str(caught.value)
        assert RedisStore(redis_server.url.replace("//", "//:right@"), run_name).transact(CREATE) is Outcome.DONE

    def test_missing_permission(self, redis_server: PrivateServer, run_name: str) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.acl_setuser("reader", enabled=True, passwords=["+p"], keys=["*"], categories=["+@all", "-@write"])
        store = RedisStore(redis_server.url.replace("//", "//reader:p@"), run_name)
        assert store.read(["a"]) == [None]
        with pytest.raises(StoreRefused, match="refuses a command"):
            store.transact(CREATE)

    def test_replica(self, redis_server: PrivateServer, redis_url: str, run_name: str) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.replicaof("127.0.0.1", redis_url.rpartition(":")[2])
        with pytest.raises(StoreRefused, match="replica"):
            RedisStore(redis_server.url, run_name).transact(CREATE)

    def test_becomes_a_replica(self, redis_server: PrivateServer, redis_url: str, run_name: str) -> None:
        store = RedisStore(redis_server.url, run_name)
        assert store.transact(CREATE) is Outcome.DONE
        with redis.Redis.from_url(redis_server.url) as client:
            client.replicaof("127.0.0.1", redis_url.rpartition(":")[2])
        with pytest.raises(StoreRefused, match="replica"):
            store.transact([Write("b", b"", None, "v1")])

    def test_evicts(self, redis_server: PrivateServer, run_name: str) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreRefused, match="noeviction"):
            RedisStore(redis_server.url, run_name).transact(CREATE)


def test_full(redis_server: PrivateServer, run_name: str) -> None:
    store = RedisStore(redis_server.url, run_name)
    lease = store.acquire("stream/1", "n", "h", 100.0)
    assert lease is not None
    assert store.transact(CREATE) is Outcome.DONE
    (kept,) = store.put_blobs("kept", [b"kept"])
    limit = store.usage().used + 24 * MIB
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", limit)
        assert store.usage().limit == limit
        with pytest.raises(StoreFull, match="maxmemory"):
            store.put_blobs("s", [os.urandom(16 * MIB), os.urandom(16 * MIB)])
        assert store.scopes() == ["kept"], "what could not be put was not cleared away"
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreFull):
            store.transact([Write("a", b"new", "v1", "v2"), Write("b", b"new", None, "v2")])
        assert [d.version if d else None for d in store.read(["a", "b"])] == ["v1", None]
        assert store.get_blob(kept) == b"kept"
        store.release(lease)
        assert store.holder("stream/1") is None
        store.drop_scope("kept")
        client.config_set("maxmemory", 0)
    assert store.transact([Write("a", b"new", "v1", "v2")]) is Outcome.DONE


class TestRestarts:
    def test_all_but_leases_is_still_there_and_scripts_are_loaded_again(self, redis_server: PrivateServer, run_name: str) -> None:
        store = RedisStore(redis_server.url, run_name)
        lease = store.acquire("stream/1", "n", "h", 100.0)
        assert lease is not None
        store.transact(CREATE, fence=lease)
        (ref,) = store.put_blobs("s", [b"value"])
        redis_server.kill()
        redis_server.restart()
        assert store.transact(CREATE, fence=lease) is Outcome.ALREADY_DONE
        assert store.get_blob(ref) == b"value"

        assert not store.renew(lease), "its holder would go on from what the server may have lost"
        assert store.holder("stream/1") is None
        assert store.transact([Write("b", b"value", None, "v1")], fence=lease) is Outcome.FENCED
        store.drop_blobs([ref], fence=lease)
        store.drop_scope("s", fence=lease)
        assert store.get_blob(ref) == b"value"
        again = store.acquire("stream/1", "n", "h", 100.0)
        assert again is not None
        assert again.epoch == 2
        assert store.renew(again)

    def test_an_operation_waits_for_the_server(self, redis_server: PrivateServer, run_name: str) -> None:
        store = RedisStore(redis_server.url, run_name)
        store.transact(CREATE)
        redis_server.kill()
        with ThreadPoolExecutor(1) as pool:
            outcome = pool.submit(store.transact, [Write("a", b"new", "v1", "v2")])
            redis_server.restart()
            assert outcome.result() in (Outcome.DONE, Outcome.ALREADY_DONE)
        assert [d.value for d in store.read(["a"]) if d] == [b"new"]

    def test_a_paused_server_is_unavailable(self, redis_server: PrivateServer, run_name: str) -> None:
        store = RedisStore(redis_server.url, run_name, timeout=0.3)
        store.transact(CREATE)
        redis_server.pause()
        with pytest.raises(StoreUnavailable):
            store.read(["a"])
        redis_server.resume()
        assert [d.value for d in store.read(["a"]) if d] == [b"value"]

    def test_close_ends_the_wait(self, redis_server: PrivateServer, run_name: str) -> None:
        store = RedisStore(redis_server.url, run_name, timeout=3600.0)
        redis_server.kill()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(store.read, ["a"])
            store.close()
            with pytest.raises(StoreUnavailable, match="closed"):
                waiting.result()


def test_a_unix_socket_is_named(tmp_path: Path, run_name: str) -> None:
    store = RedisStore(f"unix://{tmp_path}/socket", run_name, timeout=0.1)
    with pytest.raises(StoreUnavailable, match=f"Redis at unix://{tmp_path}/socket does not answer"):
        store.read(["a"])


def keys_of(url: str, run: str) -> list[bytes]:
    with redis.Redis.from_url(url) as client:
        return list(client.scan_iter(f"*{run}*"))
