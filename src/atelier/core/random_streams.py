"""Independent random streams, each named by its purpose.

Purposes that share one seed would draw the same numbers, and ``seed + 1`` for a second purpose
collides with the first purpose of the next seed. A stream is therefore a child of the seed, as
:meth:`numpy.random.SeedSequence.spawn` creates them, with the name as spawn key.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def _sequence(seed: int, name: str) -> np.random.SeedSequence:
    if not name:
        raise ValueError("a random stream needs a name")
    return np.random.SeedSequence(seed, spawn_key=tuple(name.encode()))


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of a stream, 0 to 2**64 - 1.

    torch's generator on CPUs uses only the lower 32 bits; these depend on all of ``seed`` and
    ``name``.

    Args:
        seed: a seed of the settings, 0 or more.
        name: the stream's purpose, for example ``train.latents``.
    """
    return int(_sequence(seed, name).generate_state(1, np.uint64)[0])


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """Return a NumPy generator for a stream; see :func:`derive_seed`."""
    return np.random.default_rng(_sequence(seed, name))


def torch_generator(
    seed: int, name: str, device: "torch.device | str" = "cpu"
) -> "torch.Generator":
    """Return a torch generator on ``device`` for a stream; see :func:`derive_seed`."""
    import torch

    return torch.Generator(device).manual_seed(derive_seed(seed, name))
