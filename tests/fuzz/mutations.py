"""What can be done to a message: seeded mutations of bytes, of msgpack trees and of what fields mean."""

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgpack

Tree = Any
T = TypeVar("T")

INTEGERS = [-(2**63), -1, 0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [math.nan, math.inf, -math.inf, -0.0, -1.0, 1e-45, 3.4e38, 3.6e38, 1e308, -1e308]
TEXTS = [
    "",
    "x",
    "client-02",
    "float64",
    "int64",
    "../../etc/passwd",
    "\x1b[2J\nowned",
    "\u202e",
    "a" * 300,
    "\U0001f9e8" * 2100,
    "#",
    "*",
]
NAMES = [
    "Frame",
    "Activations",
    "EndOfRound",
    "Join",
    "Heartbeat",
    "Welcome",
    "Target",
    "DeadLetter",
    "Message",
    "Score",
    "__class__",
]


class Mutator:
    """Mutations drawn from ``random.Random``, the Mersenne Twister, under a seed: the same seed, the same messages."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._on_bytes: list[Callable[[bytes], bytes]] = [
            self._flip, self._flip, self._cut, self._insert, self._delete, self._overwrite, self._repeat, self._noise,
        ]  # fmt: skip
        self._on_trees: list[Callable[[Tree], Tree]] = [
            self._replace_leaf, self._replace_leaf, self._extreme, self._drop, self._add, self._rename, self._swap, self._nest,
        ]  # fmt: skip

    def mutate(self, message: bytes, other: bytes) -> bytes:
        """Return a message that was one or more times changed; ``other`` is spliced into it at times."""
        draw = self.random.random()
        if draw < 0.05:
            return self._splice(message, other)
        if draw < 0.07:
            return self.bomb()
        if draw < 0.55:
            return self.mutate_bytes(message)
        return self.mutate_tree(message)

    def mutate_bytes(self, data: bytes) -> bytes:
        """Return bytes with bits flipped, cut short, with something put in, and so on."""
        return self._times(self._on_bytes, data)

    def mutate_tree(self, message: bytes) -> bytes:
        """Return a message that is still msgpack, with other contents."""
        return bytes(msgpack.packb(self._times(self._on_trees, msgpack.unpackb(message)), unicode_errors="surrogatepass"))

    def readdress(self, frame: bytes) -> bytes:
        """Return a frame, whole, with another place: of another client, incarnation, round, sequence or part."""
        tree = msgpack.unpackb(frame)
        fields = tree["fields"]
        near = self.random.choice([-2, -1, 1, 2, 40, 4096, 2**62])
        for name in self.random.choice([["client"], ["incarnation"], ["round"], ["sequence"], ["parts"], ["sequence", "parts"]]):
            fields[name] = self.random.choice(["client-02", "x", "A"]) if name == "client" else max(0, fields[name] + near)
        if self.random.random() < 0.3:
            fields["part"] = self.random.randrange(max(1, min(fields["parts"] + 1, 5000)))
        return bytes(msgpack.packb(tree))

    def bomb(self) -> bytes:
        """Return a message that asks for far more than it has, or that makes much out of little."""
        count = self.random.choice([2**16 - 1, 2**31, 2**32 - 1])
        head = self.random.choice([b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"]) + struct.pack(">I", count)
        depth = self.random.randint(100, 3000)
        fields = bytes(msgpack.packb({"v": 1, "type": "Frame", "fields": None}))[:-1]
        return self.random.choice(
            [
                head,
                head + self.random.randbytes(40),
                fields + head + b"\x90" * 2000,
                fields + b"\x91" * depth + b"\xc0",
                fields + b"\x81\xa1a" * depth + b"\xc0",
                b"\xdc" + struct.pack(">H", 900) + (b"\xdc" + struct.pack(">H", 40) + b"\x80" * 40) * 900,
                b"\x83\xa1v" + b"\x91" * depth + b"\x01\xa4type\xa5Frame\xa6fields\x80",
                bytes(msgpack.packb({"v": 1, "type": "Frame", "fields": {str(key): key for key in range(3000)}})),
                bytes(msgpack.packb(msgpack.Timestamp(2**33, 5))),
                b"\x82\xa1v\x01\xa1v\x02",
            ]
        )

    def value(self) -> Tree:
        """Return any value that msgpack can hold."""
        kind = self.random.randrange(9)
        if kind < 3:
            return self.random.choice(INTEGERS)
        return [
            self.random.choice(FLOATS), self.random.choice(TEXTS), self.random.randbytes(self.random.randrange(40)),
            None, self.random.random() < 0.5, self.random.choice([[], {}, [[]], {"a": []}, [0] * 1001, {"": None}]),
        ][kind - 3]  # fmt: skip

    def _times(self, mutations: Sequence[Callable[[T], T]], subject: T) -> T:
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            subject = self.random.choice(mutations)(subject)
        return subject

    def _splice(self, message: bytes, other: bytes) -> bytes:
        return message[: self.random.randint(0, len(message))] + other[self.random.randint(0, len(other)) :]

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice([1, 1, 2, 8]) if changed else 0):
            # the first bytes hold names and lengths, and there is little else in front of a tensor
            span = len(changed) if self.random.random() < 0.5 else min(len(changed), 160)
            changed[self.random.randrange(span)] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _cut(self, data: bytes) -> bytes:
        return data[: self.random.randint(0, len(data))]

    def _insert(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + self.random.randbytes(self.random.choice([1, 1, 4, 100])) + data[at:]

    def _delete(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + data[at + self.random.choice([1, 1, 4, 100]) :]

    def _overwrite(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        new = self.random.choice([b"\xff" * 9, b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7), b"\xcb\x7f\xf8" + bytes(6), b"\xc0"])
        return data[:at] + new + data[at + len(new) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self.random.randint(0, len(data))
        return data[:at] + data[: self.random.randint(0, len(data))] + data[at:]

    def _noise(self, _data: bytes) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 9, 200]))

    def _replace_leaf(self, tree: Tree) -> Tree:
        return self._at_random(tree, lambda _: self.value())

    def _extreme(self, tree: Tree) -> Tree:
        def extreme(old: Tree) -> Tree:
            if isinstance(old, bool) or not isinstance(old, int | float | bytes):
                return self.value()
            if isinstance(old, bytes):
                return old[: self.random.randint(0, len(old))] if self.random.random() < 0.5 else old + b"\0"
            return self.random.choice([*INTEGERS, *FLOATS, old + 1 if math.isfinite(old) and old < 2**63 else 0])

        return self._at_random(tree, extreme)

    def _nest(self, tree: Tree) -> Tree:
        return self._at_random(tree, lambda old: [old])

    def _drop(self, tree: Tree) -> Tree:
        holder = self._holder(tree)
        if isinstance(holder, dict) and holder:
            del holder[self.random.choice(list(holder))]
        return tree

    def _add(self, tree: Tree) -> Tree:
        holder = self._holder(tree)
        if isinstance(holder, dict):
            holder[self.random.choice(["surplus", "model_config", "", "__init__", b"\xff", "\n"])] = self.value()
        return tree

    def _rename(self, tree: Tree) -> Tree:
        if isinstance(tree, dict):
            tree["type"] = self.random.choice(NAMES)
        return tree

    def _swap(self, tree: Tree) -> Tree:
        holder = self._holder(tree)
        if isinstance(holder, dict) and len(holder) > 1:
            one, two = self.random.sample(list(holder), 2)
            holder[one], holder[two] = holder[two], holder[one]
        return tree

    def _holder(self, tree: Tree) -> Tree:
        """Return the root or one of the maps in it."""
        maps = [tree]
        for node in maps:
            children = node.values() if isinstance(node, dict) else ()
            maps += [child for child in children if isinstance(child, dict)]
        return self.random.choice(maps)

    def _at_random(self, tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
        holder = self._holder(tree)
        if not isinstance(holder, dict) or not holder:
            return change(tree)
        key = self.random.choice(list(holder))
        holder[key] = change(holder[key])
        return tree
