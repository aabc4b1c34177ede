"""Fewer and larger kernels for training steps on a GPU (``train.fused``).

The results differ from those of the plain step by rounding. ``docs/measurements/gpu.md`` has the
gain of each part. :mod:`atelier.gan.networks` has the discriminator's pass over two batches.
"""

import torch

from atelier.gan.gemm_conv import LatentConvTranspose, LogitConv
from atelier.gan.networks import Discriminator, Generator


def fuse(generator: Generator, discriminator: Discriminator, compiled: bool) -> None:
    """Compute first and last layers as matrix products, and optionally compile both networks.

    Args:
        generator: changed in place; weights and names of its state stay.
        discriminator: likewise.
        compiled: let ``torch.compile`` merge normalizations, activations and casts into common
            kernels at the first call, which takes about half a minute on a GPU.
    """
    for layer in (*generator.modules(), *discriminator.modules()):
        if isinstance(layer, LatentConvTranspose | LogitConv):
            layer.always_gemm = True
    if compiled:
        generator.layers.compile(dynamic=False)
        discriminator.layers.compile(dynamic=False)
        discriminator.layers_by_halves = torch.compile(
            discriminator.layers_by_halves, dynamic=False
        )
