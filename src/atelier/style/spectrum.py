"""How far a picture's colours and frequencies want to move, told from steps already made."""

import math

import torch
from torch import Tensor

# Lightness, and two differences of colour; orthonormal rows.
_OPPONENT = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))


class Spectrum:
    """Pictures of one size by opponent colour and octave of frequency.

    Style and content bend the loss unlike in colour and lightness, in large shapes and in grain.
    Within a band of one octave they bend it much alike.
    """

    def __init__(self, pictures: Tensor) -> None:
        """For pictures of this size, float32 ``[B, 3, H, W]``, on their device."""
        device = pictures.device
        height, width = self._size = pictures.shape[2:]
        self._colors = torch.tensor(_OPPONENT, device=device)
        down = torch.fft.fftfreq(height, device=device)[:, None]
        across = torch.fft.rfftfreq(width, device=device)
        frequency = torch.hypot(down, across).clamp(min=1 / max(height, width)).flatten()
        self.bands = max(2, round(math.log2(max(height, width))))
        # 0 is the octave of the longest wave, and the last that of the shortest.
        place = (frequency.log2() + self.bands).clamp(0, self.bands - 1)
        octaves = torch.arange(self.bands, device=device)[:, None]
        self._shares = (1 - (place - octaves).abs()).clamp(min=0)  # [bands, frequencies]
        # Of a real picture half of the frequencies is kept; the columns between count twice.
        twice = torch.full_like(across, 2.0)
        twice[0] = 1
        if width % 2 == 0:
            twice[-1] = 1
        self._counts = twice.expand(height, -1).flatten() / (height * width)

    def of(self, pictures: Tensor) -> Tensor:
        """Return complex64 ``[B, 3, frequencies]``, by opponent colour."""
        colors = torch.einsum("ij,bjhw->bihw", self._colors, pictures)
        spectra: Tensor = torch.fft.rfft2(colors)
        return spectra.flatten(2)

    def back(self, spectra: Tensor) -> Tensor:
        """Return the pictures of :meth:`of`."""
        height, width = self._size
        colors = torch.fft.irfft2(spectra.unflatten(2, (height, -1)), s=(height, width))
        return torch.einsum("ij,bihw->bjhw", self._colors, colors)

    def energies(self, spectra: Tensor) -> Tensor:
        """Return the squared length of every band's part of the pictures, ``[B, 3, bands]``."""
        squares = torch.view_as_real(spectra).square().sum(-1) * self._counts
        return squares @ self._shares.T

    def times(self, spectra: Tensor, factors: Tensor) -> Tensor:
        """Multiply by positive factors of bands, ``[B, 3, bands]``, spread over frequencies."""
        return spectra * (factors.log() @ self._shares).exp()

    def product(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the inner products of the pictures of two spectra, ``[B]``."""
        real = (torch.view_as_real(one) * torch.view_as_real(other)).sum(-1)
        return (real * self._counts).sum((1, 2))
