"""Between which values a canvas stays while it is painted, so that no saved colour is cut."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

# A sine is flat where it is highest: colours begin this far inside, so that they can move.
_INSIDE = 0.002


class Bounds(NamedTuple):
    """What values may be: between two numbers, or between two pictures ``[B, 3, H, W]``."""

    low: Tensor
    high: Tensor

    @property
    def are_free(self) -> bool:
        """Whether nothing is out of bounds."""
        return bool(torch.isinf(self.low).all() and torch.isinf(self.high).all())

    def nearest(self, pictures: Tensor) -> Tensor:
        """The nearest pictures within."""
        return torch.maximum(torch.minimum(pictures, self.high), self.low)

    def free(self, pictures: Tensor, gradient: Tensor) -> Tensor:
        """False where a step downhill would lead out."""
        above = (pictures >= self.high) & (gradient < 0)
        return ~(above | (pictures <= self.low) & (gradient > 0))

    def angles(self, pictures: Tensor) -> Tensor:
        """Numbers without bounds whose :meth:`at_angles` are these pictures, nearly."""
        place = (pictures - self.low) / (self.high - self.low).clamp(min=1e-6)
        return torch.asin(2 * place.clamp(_INSIDE, 1 - _INSIDE) - 1)

    def at_angles(self, angles: Tensor) -> Tensor:
        """Pictures within, whatever the numbers."""
        return self.nearest(self.low + (self.high - self.low) * (0.5 + 0.5 * torch.sin(angles)))

    def slope(self, angles: Tensor) -> Tensor:
        """How far a picture moves for a change of its angles."""
        return (self.high - self.low) * 0.5 * torch.cos(angles)


def bounds(low: float, high: float, like: Tensor) -> Bounds:
    """Bounds that are the same everywhere, on the device of ``like``."""
    return Bounds(like.new_tensor(low), like.new_tensor(high))


def no_bounds(like: Tensor) -> Bounds:
    """Bounds that hold nothing back."""
    return bounds(-math.inf, math.inf, like)
