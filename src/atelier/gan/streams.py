"""Random streams of a training: each draw has a stream and a state of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from atelier.core.random_streams import derive_seed


class RandomStreams:
    """Order of the images, latents, dropout and augmentation.

    Attributes:
        order: on the CPU.
        latents: on the training's device.
        uniforms: of augmentation and gradient penalties, on the training's device.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        """Seed all streams from ``train.seed``."""
        self._seed, self._device = seed, device
        self.order = torch.Generator()
        self.latents = torch.Generator(device)
        self.uniforms = torch.Generator(device)
        # Dropout draws from PyTorch's global stream; this has its state between two steps.
        self._dropout = torch.Generator(device)
        self.reset()

    def reset(self) -> None:
        """Seed all streams as at the start of the training."""
        self._dropout.manual_seed(stream_seed(self._seed, "dropout"))
        self.reseed(0)

    def reseed(self, rollbacks: int) -> None:
        """Seed the streams of the epochs; after each rollback they differ."""
        for name, stream in self._of_epochs().items():
            stream.manual_seed(stream_seed(self._seed, f"{name}.{rollbacks}"))

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """Draw from the stream of dropout instead of PyTorch's global stream in the body."""
        on_cuda = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if on_cuda else []):
            module = torch.cuda if on_cuda else torch.random
            module.set_rng_state(self._dropout.get_state())
            yield
            self._dropout.set_state(module.get_rng_state())

    def state(self) -> dict[str, Tensor]:
        """Return the state of each stream by name."""
        streams = {name: stream.get_state() for name, stream in self._of_epochs().items()}
        return streams | {"dropout": self._dropout.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors returned by :meth:`state`, bit for bit."""
        for name, stream in self._of_epochs().items():
            stream.set_state(state[name])
        self._dropout.set_state(state["dropout"])

    def _of_epochs(self) -> dict[str, torch.Generator]:
        # The names are part of the seeds and of saved states.
        return {"order": self.order, "latents": self.latents, "chances": self.uniforms}


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of a stream of the training, for ``train.seed``."""
    return derive_seed(seed, f"train.{name}")
