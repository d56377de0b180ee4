"""Seeds by name, and blocks that draw under them."""

import torch

from learning.seeds import derive, seeded


def drawn() -> list[float]:
    return torch.rand(4).tolist()


def test_a_seeded_block_draws_what_its_seed_gives_and_leaves_no_trace() -> None:
    torch.manual_seed(derive(3, "layer", 1))
    expected = drawn()
    torch.manual_seed(7)
    outside = drawn()

    torch.manual_seed(7)
    with seeded(3, "layer", 1):
        assert drawn() == expected
    assert drawn() == outside


def test_every_purpose_has_its_own_seed() -> None:
    purposes = [(3, "layer", 1), (3, "layer", 2), (3, "layer", "1"), (3, "exit", 1), (4, "layer", 1), (3, "layer1")]
    assert len({derive(*purpose) for purpose in purposes}) == len(purposes)  # type: ignore[arg-type]
