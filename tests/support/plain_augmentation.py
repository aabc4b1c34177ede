"""Reference implementation of the augmentation: one image at a time, with slices."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FIRST_COLUMN = {"real": 2, "fake": 9, "fake_g": 16, "real_g": 23}


def plain_augmentation(images: Tensor, kinds: Sequence[str], uniforms: Tensor, view: str) -> Tensor:
    """Augment images [B, C, H, W] with a view's columns of uniforms [B, UNIFORMS_PER_IMAGE]."""
    first = FIRST_COLUMN[view]
    rows = uniforms[:, first : first + 7].tolist()
    return torch.stack([_image(image, kinds, row) for image, row in zip(images, rows, strict=True)])


def _image(image: Tensor, kinds: Sequence[str], numbers: list[float]) -> Tensor:
    if "color" in kinds:
        image = _color(image, *numbers[:3])
    if "translation" in kinds:
        image = _translation(image, *numbers[3:5])
    if "cutout" in kinds:
        image = _cutout(image, *numbers[5:])
    return image


def _color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    image = image + (brightness - 0.5)
    gray = image.mean(0)
    image = gray + (image - gray) * 2 * saturation
    return image.mean() + (image - image.mean()) * (0.5 + contrast)


def _translation(image: Tensor, down: float, right: float) -> Tensor:
    side = image.shape[1]
    largest = round(side / 8)
    shifts = 2 * largest + 1
    top, left = 2 * largest - int(down * shifts), 2 * largest - int(right * shifts)
    return F.pad(image, (largest,) * 4)[:, top : top + side, left : left + side]


def _cutout(image: Tensor, down: float, right: float) -> Tensor:
    side = image.shape[1]
    half = side // 2
    top, left = (int(number * (side + 1)) - half // 2 for number in (down, right))
    mask = torch.ones_like(image)
    mask[:, max(0, top) : top + half, max(0, left) : left + half] = 0
    return image * mask
