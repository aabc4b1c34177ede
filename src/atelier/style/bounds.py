"""Box constraints on images, so that saving does not clip colors."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The derivative of the sine is 0 at the bounds. Colors start this fraction inside.
_BOUND_MARGIN = 0.002


class Bounds(NamedTuple):
    """Box constraints: two scalars, or two batches of images ``[B, 3, H, W]``."""

    low: Tensor
    high: Tensor

    def is_unbounded(self) -> bool:
        """Return true if all values are allowed; this waits for the device."""
        return bool(torch.isinf(self.low).all() and torch.isinf(self.high).all())

    def clamp(self, images: Tensor) -> Tensor:
        """Return the nearest images within the bounds."""
        return torch.maximum(torch.minimum(images, self.high), self.low)

    def free_mask(self, images: Tensor, gradient: Tensor) -> Tensor:
        """Return false for values at a bound that a descent step would cross."""
        above = (images >= self.high) & (gradient < 0)
        return ~(above | (images <= self.low) & (gradient > 0))

    def to_unbounded(self, images: Tensor) -> Tensor:
        """Return angles for which :meth:`from_unbounded` returns nearly these images."""
        fraction = (images - self.low) / (self.high - self.low).clamp(min=1e-6)
        return torch.asin(2 * fraction.clamp(_BOUND_MARGIN, 1 - _BOUND_MARGIN) - 1)

    def from_unbounded(self, angles: Tensor) -> Tensor:
        """Return images within the bounds: a scaled sine of any angles."""
        return self.clamp(self.low + (self.high - self.low) * (0.5 + 0.5 * torch.sin(angles)))

    def d_from_unbounded(self, angles: Tensor) -> Tensor:
        """Return the derivative of :meth:`from_unbounded`."""
        return (self.high - self.low) * 0.5 * torch.cos(angles)


def bounds_for(low: float, high: float, like: Tensor) -> Bounds:
    """Return bounds that are the same for all values, on the device of ``like``."""
    return Bounds(like.new_full((), low), like.new_full((), high))


def unbounded(like: Tensor) -> Bounds:
    """Return infinite bounds, on the device of ``like``."""
    return bounds_for(-math.inf, math.inf, like)
