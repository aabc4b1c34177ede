"""Pictures on their way into painting and out of it."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.uint8]

_MARGIN = 16
_PAPER = 255


def prepare(picture: Picture, size: int) -> Tensor:
    """Scale a picture so that its shorter side is ``size`` pixels, and make it a tensor.

    Args:
        picture: uint8 ``[H, W, 3]``, RGB.
        size: pixels of the shorter side; the other follows, rounded.

    Returns:
        float32 ``[1, 3, h, w]``, RGB, 0 to 1.
    """
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    scaled = _resize(picture, round(height * scale), round(width * scale))
    return torch.from_numpy(scaled).permute(2, 0, 1)[None].contiguous().float() / 255


def to_uint8(pictures: Tensor) -> Picture:
    """Turn float ``[B, 3, H, W]``, 0 to 1, into uint8 ``[B, H, W, 3]``, rounded and clamped."""
    levels = (pictures.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def named_faces(faces: Picture) -> dict[str, Picture]:
    """Give generated faces names, ``face_01`` and so on, and colour channels.

    Args:
        faces: uint8 ``[N, H, W, C]``, grey (C = 1) or RGB (C = 3).

    Returns:
        uint8 ``[H, W, 3]``, RGB, by name, in the order given.
    """
    colored = np.broadcast_to(faces, (*faces.shape[:3], 3))
    return {f"face_{number:02d}": face for number, face in enumerate(colored, start=1)}


def sheet(
    contents: Sequence[Picture], styles: Sequence[Picture], results: Sequence[Picture]
) -> Picture:
    """Lay out one row for each painting: content, style, result.

    Args:
        contents: uint8 ``[H, W, 3]``, one for each result.
        styles: likewise; scaled to their result's height.
        results: uint8 ``[H, W, 3]``.

    Returns:
        uint8 ``[H, W, 3]``: the rows on white paper, with a margin around every picture.
    """
    rows = []
    for content, style, result in zip(contents, styles, results, strict=True):
        height = result.shape[0]
        rows.append([_to_height(picture, height) for picture in (content, style, result)])
    widths = [max(picture.shape[1] for picture in column) for column in zip(*rows, strict=True)]
    heights = [row[0].shape[0] for row in rows]
    paper = np.full(
        (sum(heights) + _MARGIN * (len(heights) + 1), sum(widths) + _MARGIN * 4, 3),
        _PAPER,
        np.uint8,
    )
    top = _MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN
        for picture, width in zip(row, widths, strict=True):
            indent = left + (width - picture.shape[1]) // 2
            paper[top : top + height, indent : indent + picture.shape[1]] = picture
            left += width + _MARGIN
        top += height + _MARGIN
    return paper


def _to_height(picture: Picture, height: int) -> Picture:
    return _resize(picture, height, round(picture.shape[1] * height / picture.shape[0]))


def _resize(picture: Picture, height: int, width: int) -> Picture:
    if (height, width) == picture.shape[:2]:
        return picture
    shrinks = height < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(picture, (max(width, 1), max(height, 1)), interpolation=how).astype(np.uint8)
