"""The generated samples that `splitee bench train` trains on: what they show does not change how long a step takes."""

import torch

IMAGES = "cli.bench_data:images"
CLASSES = 10
TRAIN_SAMPLES = 8192
_TEST_SAMPLES = 2 * CLASSES  # evaluation is not measured

Samples = tuple[torch.Tensor, torch.Tensor]


def images() -> tuple[Samples, Samples]:
    """Return a training and a test split: random images, uint8 (samples, 3, 32, 32), and labels 0..9, int64 (samples,)."""
    return _split(TRAIN_SAMPLES), _split(_TEST_SAMPLES)


def _split(samples: int) -> Samples:
    return torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8), torch.arange(samples) % CLASSES
