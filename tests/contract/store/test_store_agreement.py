"""Both stores give the same answers to any sequence of operations."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from coordinator.store.interface import BlobRef, Lease, Write
from coordinator.store.memory import MemoryStore
from coordinator.store.redis import RedisStore
from tests.contract.stores import LONG

NAMES = st.sampled_from(["a", "b", "c"])
NONCES = st.sampled_from(["n1", "n2"])
LEASES = st.builds(Lease, NAMES, st.integers(0, 3), NONCES, st.just(LONG))
VERSIONS = st.sampled_from(["v1", "v2", "v3"])
WRITES = st.lists(
    st.builds(Write, NAMES, st.none() | st.binary(max_size=4), st.none() | VERSIONS, VERSIONS),
    min_size=1, max_size=3, unique_by=lambda write: write.key,
)  # fmt: skip


def test_memory_and_redis_agree_on_anything(redis_url: str, run_name: str) -> None:
    run_state_machine_as_test(
        lambda: Agreement(RedisStore(redis_url, run_name)),
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None, derandomize=True),
    )


class Agreement(RuleBasedStateMachine):
    """Does everything twice and compares. Versions repeat on purpose: both must then err in the same way."""

    def __init__(self, store: RedisStore) -> None:
        super().__init__()
        self.real, self.memory = store, MemoryStore()

    @rule(name=NAMES, nonce=NONCES)
    def acquire(self, name: str, nonce: str) -> None:
        assert self.real.acquire(name, nonce, "h", LONG) == self.memory.acquire(name, nonce, "h", LONG)

    @rule(lease=LEASES)
    def renew(self, lease: Lease) -> None:
        assert self.real.renew(lease) == self.memory.renew(lease)

    @rule(lease=LEASES)
    def release(self, lease: Lease) -> None:
        self.real.release(lease)
        self.memory.release(lease)

    @rule(writes=WRITES, fence=st.none() | LEASES, bump=st.lists(NAMES, unique=True, max_size=2))
    def transact(self, writes: list[Write], fence: Lease | None, bump: list[str]) -> None:
        assert self.real.transact(writes, fence=fence, bump=bump) is self.memory.transact(writes, fence=fence, bump=bump)

    @rule(scope=NAMES, values=st.lists(st.binary(max_size=3), max_size=3))
    def put(self, scope: str, values: list[bytes]) -> None:
        refs = self.memory.put_blobs(scope, values)
        assert self.real.put_blobs(scope, values) == refs
        assert [self.real.get_blob(ref) for ref in refs] == values

    @rule(scope=NAMES, values=st.lists(st.binary(max_size=1), max_size=2), fence=st.none() | LEASES)
    def drop_blobs(self, scope: str, values: list[bytes], fence: Lease | None) -> None:
        for store in (self.real, self.memory):
            store.drop_blobs([BlobRef.of(scope, value) for value in values], fence=fence)

    @rule(scope=NAMES, fence=st.none() | LEASES)
    def drop_scope(self, scope: str, fence: Lease | None) -> None:
        self.real.drop_scope(scope, fence=fence)
        self.memory.drop_scope(scope, fence=fence)

    @invariant()
    def all_is_the_same(self) -> None:
        assert self.real.read(["a", "b", "c"]) == self.memory.read(["a", "b", "c"])
        assert self.real.keys("") == self.memory.keys("")
        assert self.real.scopes() == self.memory.scopes()
        for name in ("a", "b", "c"):
            ours, theirs = self.real.holder(name), self.memory.holder(name)
            assert (ours is None) == (theirs is None)
            if ours and theirs:
                assert (ours.holder, ours.epoch) == (theirs.holder, theirs.epoch)

    def teardown(self) -> None:
        self.real.wipe()
        self.real.close()
