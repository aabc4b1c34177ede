"""What a painting is to look like."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Look:
    """A style, or several: mixed in one painting, or each under its mask.

    Attributes:
        styles: each float32 ``[1, 3, h, w]``, RGB, 0 to 1, of any size.
        weights: how much of each is mixed in, or how much its part of the picture counts; equal
            if not given.
        masks: where each style goes, float32 ``[1, 1, H, W]``, 0 to 1, of the content's size;
            everywhere if not given. Where no mask is above 0 the content stays as it is.
    """

    styles: tuple[Tensor, ...]
    weights: tuple[float, ...] = ()
    masks: tuple[Tensor, ...] = ()

    def shares(self) -> list[float]:
        """The weights, so scaled that they sum to 1."""
        weights = self.weights or (1.0,) * len(self.styles)
        return [weight / sum(weights) for weight in weights]
