"""Fewer and larger kernels for training steps on a GPU (``train.fused``).

The results differ from those of the plain step by rounding. ``docs/measurements/gpu.md`` has the
gain of each part. :mod:`atelier.gan.networks` has the discriminator's pass over two batches.
"""

import torch

from atelier.core.errors import printable
from atelier.gan.gemm_conv import LatentConvTranspose, LogitConv
from atelier.gan.networks import (
    Discriminator,
    Generator,
    LayerFunctions,
    RunLayers,
    run_layers,
    run_layers_on_pair,
)


def fuse(generator: Generator, discriminator: Discriminator, compiled_batch: int) -> None:
    """Compute first and last layers as matrix products, and optionally compile training steps.

    Args:
        generator: changed in place; weights and names of its state stay.
        discriminator: likewise.
        compiled_batch: size of the batches for which ``torch.compile`` merges normalizations,
            activations and casts at the first step (25 s for a prototype on a GPU); 0 for none.
    """
    for layer in (*generator.modules(), *discriminator.modules()):
        if isinstance(layer, LatentConvTranspose | LogitConv):
            layer.always_gemm = True
    if compiled_batch:
        fused = LayerFunctions(_compile(run_layers), _compile(run_layers_on_pair), compiled_batch)
        generator.fused = discriminator.fused = fused


def _compile(function: RunLayers) -> RunLayers:
    """Compile a function; parts that cannot be compiled raise an error."""
    return torch.compile(function, dynamic=False, fullgraph=True)


def compilation_problem(error: BaseException) -> str | None:
    """Return why a function could not be compiled; ``None`` for any other error."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    if not isinstance(error, TorchDynamoException):
        return None
    return printable(" ".join(str(error).partition("\n\n")[0].split()), 200)
