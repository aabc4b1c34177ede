"""Sharpness, brightness and contrast of rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

BLURRED_TIMES_SIDE = 3.2
"""A row is blurred if its sharpness is less than this number divided by its side in pixels.

Of 300 CelebA faces at 16, 32 and 64 pixels, none is below this limit. After a Gaussian blur with a
standard deviation of 1.5 pixels, at least 95% are: docs/measurements/data-report.md.
"""
DARK, BRIGHT = 64, 192
"""A row is dark if 95% of its pixels are below the first, bright if 95% are above the second."""
MIN_CONTRAST = 16
"""A row has no content if the middle 90% of its pixels differ by less."""
_MIN_VARIANCE = 25.0  # of a row that counts as flat; its noise is not sharp


@dataclass(frozen=True, eq=False)
class Quality:
    """Measures of N rows.

    Attributes:
        sharpness: variance of the Laplacian divided by the variance of the row, float64 [N].
        low: 5th percentile of the brightness, 0 to 255, float64 [N].
        high: 95th percentile of the brightness, float64 [N].
        side: of the rows, in pixels.
    """

    sharpness: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    side: int

    @property
    def is_flat(self) -> NDArray[np.bool_]:
        """True for rows without content."""
        return np.asarray(self.high - self.low < MIN_CONTRAST)

    @property
    def is_blurred(self) -> NDArray[np.bool_]:
        """True for blurred rows; flat rows have nothing that could be blurred."""
        return np.asarray((self.sharpness < BLURRED_TIMES_SIDE / self.side) & ~self.is_flat)

    @property
    def is_dark(self) -> NDArray[np.bool_]:
        """True for rows of which nearly all pixels are dark."""
        return np.asarray((self.high < DARK) & ~self.is_flat)

    @property
    def is_bright(self) -> NDArray[np.bool_]:
        """True for rows of which nearly all pixels are bright."""
        return np.asarray((self.low > BRIGHT) & ~self.is_flat)


def measure_quality(rows: Iterable[NDArray[np.uint8]], side: int) -> Quality:
    """Measure rows, uint8 [side, side, C] each, one at a time."""
    sharpness, low, high = [], [], []
    for row in rows:
        gray = _gray(row)
        laplacian = cv2.Laplacian(gray, cv2.CV_32F)
        sharpness.append(float(laplacian.var()) / max(float(gray.var()), _MIN_VARIANCE))
        percentiles = np.percentile(gray, (5, 95))
        low.append(float(percentiles[0]))
        high.append(float(percentiles[1]))
    return Quality(np.array(sharpness), np.array(low), np.array(high), side)


def _gray(row: NDArray[np.uint8]) -> NDArray[np.float32]:
    gray = cv2.cvtColor(row, cv2.COLOR_RGB2GRAY) if row.shape[2] == 3 else row[:, :, 0]
    return np.asarray(gray, np.float32)
