"""What may stand in place of a stored value or a file: seeded changes of bytes and of JSON."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from tests.fuzz.mutations import FLOATS, INTEGERS, TEXTS, Mutator

Tree = Any
Place = tuple[dict[str, Tree] | list[Tree], Any]
KEYS = ["", "surplus", "model_config", "a\nb", "\x1b[2J", "x" * 5000, "__class__", "\u202e"]
VALUES: list[Tree] = [
    *INTEGERS, *FLOATS, *TEXTS, 10**9, -(10**30), 10**400, None, True, False, [], {}, [[]], {"": None}, "7", "none", "0" * 64,
    [0] * 2000,
]  # fmt: skip


class Hostile:
    """Changes drawn under a seed: the same seed, the same changes."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self._mutator = Mutator(seed)

    def data(self, data: bytes) -> bytes:
        """Return bytes with bits flipped, cut short, with something put in, and so on."""
        return self._mutator.mutate_bytes(data)

    def value(self) -> Tree:
        """Return any value that JSON can hold, or Python's JSON."""
        return copy.deepcopy(self.random.choice(VALUES))

    def tree(self, tree: Tree) -> Tree:
        """Return a tree of dicts and lists with something else in some places."""
        tree = copy.deepcopy(tree)
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            tree = self._changed(tree)
        return tree

    def json(self, document: bytes) -> bytes:
        """Return JSON with something else in some places."""
        return json.dumps(self.tree(json.loads(document))).encode()

    def _changed(self, tree: Tree) -> Tree:
        places = list(_places(tree))
        if not places or self.random.random() < 0.02:
            return self.value()
        holder, key = self.random.choice(places)
        kind = self.random.randrange(6)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            from_holder, from_key = self.random.choice(places)
            holder[key] = copy.deepcopy(from_holder[from_key])
        elif kind == 2 and isinstance(holder, dict):
            holder[self.random.choice(KEYS)] = holder.pop(key)
        else:
            holder[key] = self.value()
        return tree


def check_line(error: Exception, *names: object, most: int = 800) -> None:
    """Fail unless an error is one short line that names what it is about."""
    text = str(error)
    assert text.isprintable(), repr(text)
    assert len(text) < most
    assert [str(name) for name in names if str(name) not in text] == [], text


def _places(tree: Tree) -> Iterator[Place]:
    """Yield every place in a tree, as what holds it and its key or index there."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])
