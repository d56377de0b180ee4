"""What is done to a batch of images: resize, random crop and flip, normalise."""

from collections.abc import Sequence

import torch
from torch.nn.functional import interpolate, pad

PAD_FRACTION = 8  # a 32-pixel image is padded by 4, as is usual on CIFAR


def resize(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Return float images (batch, channels, height, width) as size x size or (height, width), bilinear with anti-aliasing."""
    wanted = (size, size) if isinstance(size, int) else size
    if tuple(images.shape[-2:]) == wanted:
        return images
    return interpolate(images, size=wanted, mode="bilinear", antialias=True, align_corners=False)


def crop_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pad with zeros, crop back and mirror: offsets and the flip (one in two) are drawn for each image.

    images: (batch, channels, height, width), before normalisation, so that the padding is black.
    """
    batch, _, height, width = images.shape
    margin_y, margin_x = height // PAD_FRACTION, width // PAD_FRACTION
    top = torch.randint(2 * margin_y + 1, (batch, 1), generator=generator)
    left = torch.randint(2 * margin_x + 1, (batch, 1), generator=generator)
    flipped = torch.randint(2, (batch, 1), generator=generator).bool()
    rows = top + torch.arange(height)
    columns = left + torch.where(flipped, torch.arange(width - 1, -1, -1), torch.arange(width))
    padded = pad(images, (margin_x, margin_x, margin_y, margin_y))
    cropped = padded[torch.arange(batch)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2).contiguous()


def normalise(images: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (images - mean) / std by channel, for images (batch, channels, ...)."""
    shape = (1, -1) + (1,) * (images.dim() - 2)
    return (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
