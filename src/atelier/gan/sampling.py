"""Pictures asked for by their seeds, and the ways from one to the next."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atelier.core.array_headers import read_array
from atelier.core.errors import AtelierError
from atelier.core.files import NotRegularError
from atelier.gan.generate import to_uint8
from atelier.gan.serialization import load_generator

Pictures = NDArray[np.uint8]


def save_samples(
    epoch: int, pictures: Pictures, between: Mapping[int, Pictures], folder: Path
) -> None:
    """Write an epoch's pictures, uint8 [N, H, W, C], as ``epoch_0001.npy``.

    Those of steps in between are ``step_00000010.npy``.
    """
    np.save(folder / f"epoch_{epoch:04d}.npy", pictures, allow_pickle=False)
    for step, shown in between.items():
        np.save(folder / f"step_{step:08d}.npy", shown, allow_pickle=False)


def save_augmented(pictures: Pictures, folder: Path) -> None:
    """Write what :func:`atelier.gan.augment.augmentation_preview` shows, as ``augmented.npy``."""
    np.save(folder / "augmented.npy", pictures, allow_pickle=False)


def load_epochs(folder: Path) -> dict[int, Pictures]:
    """Every epoch's pictures that :func:`save_samples` wrote, by the epoch's number.

    Raises:
        AtelierError: a file is damaged, or holds something else.
    """
    return {
        int(file.stem.removeprefix("epoch_")): _load_images(file)
        for file in sorted(folder.glob("epoch_*.npy"))
    }


def _load_images(file: Path) -> Pictures:
    try:
        return read_array(file)
    except (OSError, ValueError, NotRegularError) as error:
        reason = getattr(error, "reason", str(error)).partition("\n")[0].rstrip(".")
        raise AtelierError(
            f"{file} cannot be read as samples ({reason}); run the train stage again."
        ) from None


MAX_SEED = 2**63 - 1
# Of a hundred numbers from N(0, 1) one stays within this; below it, drawing again takes for ever.
MIN_TRUNCATION = 0.01


@dataclass(frozen=True)
class SampledGenerator:
    """A trained generator, wherever it came from.

    Attributes:
        network: [B, latent_size + classes] to pictures [B, C, H, W] in [-1, 1], as it is used
            and no longer trained; its input is a latent with a one-hot label behind it.
        latent_size: numbers in a latent vector.
        latents: what they are drawn from, N(0, 1) or uniformly from -1 to 1.
        classes: that it tells apart; 0 for none.
        device: where the network is.
    """

    network: Callable[[Tensor], Tensor]
    latent_size: int
    latents: Literal["normal", "uniform"]
    classes: int
    device: torch.device

    @classmethod
    def from_file(cls, path: Path, device: torch.device) -> "SampledGenerator":
        """Rebuild the generator of a file; see :func:`atelier.gan.serialization.load_generator`."""
        network, arch = load_generator(path, device)
        return cls.from_module(network, arch.latent_size + arch.classes, asdict(arch), device)

    @classmethod
    def from_module(
        cls,
        network: Callable[[Tensor], Tensor],
        inputs: int,
        about: Mapping[str, Any],
        device: torch.device,
    ) -> "SampledGenerator":
        """Take a network, wherever it was kept.

        Args:
            network: see above.
            inputs: how many numbers it takes for a picture.
            about: its :class:`~atelier.gan.networks.Architecture` as a dictionary, or an empty one
                where nobody wrote that down: normal latents then, and no classes.
            device: where the network is.
        """
        classes = about.get("classes", 0)
        return cls(network, inputs - classes, about.get("latents", "normal"), classes, device)

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the network's weights, in hexadecimal digits."""
        found = sha256()
        state = self.network.state_dict() if isinstance(self.network, nn.Module) else {}
        for name, tensor in sorted(state.items()):
            found.update(name.encode())
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(values.numpy())
        return found.hexdigest()


def latents_for_seeds(
    seeds: Iterable[int],
    trained: SampledGenerator,
    truncation: float | None = None,
    label: int | None = None,
) -> Iterator[Tensor]:
    """Draw what the generator takes for each seed, which nothing but the seed decides.

    Truncation is that of Brock, Donahue and Simonyan 2019, "Large scale GAN training for high
    fidelity natural image synthesis": numbers beyond a threshold are drawn again. It trades
    variety for pictures that are more like the average one. Numbers within the threshold stay.

    Args:
        seeds: 0 to :data:`MAX_SEED`.
        trained: says how many numbers, and from what.
        truncation: the threshold, at least :data:`MIN_TRUNCATION`; ``None`` for none.
        label: the class to show; left out, seed after seed shows class after class.

    Yields:
        float32 [latent_size + classes], on the CPU.

    Raises:
        AtelierError: the truncation is too small, the latents are not normal, or there is no
            such class.
    """
    _check_labels(trained, truncation, label)
    for seed in seeds:
        one_hot = torch.zeros(trained.classes)
        if trained.classes:
            one_hot[seed % trained.classes if label is None else label] = 1
        yield torch.cat([_latent_of_seed(trained, seed, truncation), one_hot])


def _check_labels(trained: SampledGenerator, truncation: float | None, label: int | None) -> None:
    if label is not None and not 0 <= label < trained.classes:
        known = f"classes 0 to {trained.classes - 1}" if trained.classes else "no classes"
        raise AtelierError(f"there is no class {label}: this generator knows {known}.")
    if truncation is not None and trained.latents != "normal":
        raise AtelierError(
            "truncation is for normal latents, but those of this generator are uniform, from -1 to"
            " 1; leave --truncation out."
        )
    if truncation is not None and not truncation >= MIN_TRUNCATION:
        raise AtelierError(
            f"a truncation of {truncation:g} leaves nothing to draw; give {MIN_TRUNCATION} or more, such"
            " as 1.5."
        )


def _latent_of_seed(trained: SampledGenerator, seed: int, truncation: float | None) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    if trained.latents == "uniform":
        return torch.rand(trained.latent_size, generator=source).mul(2).sub(1)
    latent = torch.randn(trained.latent_size, generator=source)
    while truncation is not None and (beyond := latent.abs() > truncation).any():
        latent[beyond] = torch.randn(int(beyond.sum()), generator=source)
    return latent


def slerp(start: Tensor, end: Tensor, part: float) -> Tensor:
    """Go part of the way from one latent to another along a great circle.

    Shoemake 1985, "Animating rotation with quaternion curves". White 2016, "Sampling generative
    networks": the straight way between two latents of many numbers leads through vectors much
    shorter than any that the generator was taught; this one keeps their length.

    Args:
        start: [latent_size].
        end: [latent_size].
        part: 0, which gives ``start`` to the bit, to 1, which gives ``end``.

    Returns:
        [latent_size]. Where the two point the same or opposite ways there is no one great
        circle, and the way is straight.
    """
    cosine = torch.nn.functional.cosine_similarity(start.double(), end.double(), dim=0)
    angle = math.acos(max(-1.0, min(1.0, float(cosine))))
    sine = math.sin(angle)
    if sine < 1e-6:
        return torch.lerp(start, end, part)
    return start * (math.sin((1 - part) * angle) / sine) + end * (math.sin(part * angle) / sine)


def interpolation_loop(
    inputs: Sequence[Tensor], frames: int, trained: SampledGenerator
) -> Iterator[Tensor]:
    """Go from each latent to the next by :func:`slerp`, and from the last back to the first.

    The label, where there is one, stays that of the first: the generator was taught no mixed ones.

    Args:
        inputs: at least one, [latent_size + classes].
        frames: steps from each to the next; the first step is the latent itself.
        trained: says where a latent ends and its label begins.

    Yields:
        ``len(inputs) * frames`` vectors [latent_size + classes].
    """
    size, label = trained.latent_size, inputs[0][trained.latent_size :]
    for start, end in pairwise([*inputs, inputs[0]]):
        for step in range(frames):
            yield torch.cat([slerp(start[:size], end[:size], step / frames), label])


def generate_one_by_one(
    trained: SampledGenerator, inputs: Iterable[Tensor]
) -> Iterator[NDArray[np.uint8]]:
    """Make a picture of each [latent_size + classes]: uint8 [H, W, C], 0 to 255.

    They are made one by one: the sums of a batch may be rounded differently for another number
    of pictures, and a seed's picture is to be the same in any company.
    """
    for given in inputs:
        with torch.inference_mode():
            made = to_uint8(trained.network(given[None].to(trained.device)))
        yield made[0].cpu().numpy()
