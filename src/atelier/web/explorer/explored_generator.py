"""Images of a trained generator at points of its latent space."""

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.figures.gif import write_gif
from atelier.figures.montage import montage
from atelier.gan.generation import TrainedGenerator, random_latents
from atelier.gan.sampling import generate_one_by_one, latents_for_seeds, slerp, within_training
from atelier.latents.directions import Directions
from atelier.web.explorer.requests import Face, GifRequest, decode_latent, encode_latent

Pixels = NDArray[np.uint8]

END_OFFSET = 3.0
"""Offset of the images at both ends of a slider, in standard deviations."""

_GIF_PIXELS = 256  # least side of a GIF's frames


@dataclass(frozen=True)
class ExploredGenerator:
    """A generator with the principal directions of its latent space.

    Attributes:
        generator: the generator.
        directions: from :func:`atelier.latents.directions.principal_directions`.
    """

    generator: TrainedGenerator
    directions: Directions

    def latent(self, face: Face) -> Tensor:
        """Return the generator's input for a face, float32 [latent_size + classes].

        Without offsets, it is that of ``atelier generate`` for the same seed.

        Raises:
            AtelierError: the face does not fit this generator.
        """
        size = self.generator.latent_size
        if face.seed is not None:
            labels = () if face.label is None else (face.label,)
            truncation = face.truncation
            (latent,) = latents_for_seeds([face.seed], self.generator, truncation, labels)
        else:
            latent = self._from_text(face)
        count = len(self.directions.vectors)
        if len(face.offsets) > count:
            raise AtelierError(f"this generator has {count} directions, not {len(face.offsets)}.")
        if any(face.offsets):
            steps = (
                torch.tensor(face.offsets) * _cpu(self.directions.deviations)[: len(face.offsets)]
            )
            latent[:size] += steps @ _cpu(self.directions.vectors)[: len(face.offsets)]
            latent[:size] = within_training(latent[:size], self.generator)
        return latent

    def _from_text(self, face: Face) -> Tensor:
        values = torch.from_numpy(decode_latent(face.latent or ""))
        size, classes = self.generator.latent_size, self.generator.classes
        if len(values) != size:
            raise AtelierError(
                f"the latent has {len(values)} numbers, but this generator needs {size}; it is of"
                " another generator."
            )
        label = face.label or 0
        if face.label is not None and label >= classes:
            valid = f"classes 0 to {classes - 1}" if classes else "no classes"
            raise AtelierError(f"there is no class {label}: this generator has {valid}.")
        one_hot = torch.zeros(classes)
        if classes:
            one_hot[label] = 1
        return torch.cat([within_training(values, self.generator), one_hot])

    def face_of(self, latent: Tensor) -> Face:
        """Return the face of an input [latent_size + classes]."""
        size = self.generator.latent_size
        label = int(latent[size:].argmax()) if self.generator.classes else None
        return Face(latent=encode_latent(latent[:size].numpy()), label=label)

    def image(self, face: Face) -> Pixels:
        """Return the image of a face, uint8 [H, W, C]."""
        return next(generate_one_by_one(self.generator, [self.latent(face)]))

    def images(self, latents: Sequence[Tensor]) -> list[Pixels]:
        """Return the images of inputs, each equal to that of :meth:`image`."""
        return list(generate_one_by_one(self.generator, latents))

    def ends(self, face: Face) -> list[tuple[Pixels, Pixels]]:
        """Return the images at both ends of the slider of each direction."""
        count = len(self.directions.vectors)
        offsets = [*face.offsets, *[0.0] * (count - len(face.offsets))]
        pairs = []
        for index in range(count):
            low, high = (
                face.model_copy(update={"offsets": [*offsets[:index], end, *offsets[index + 1 :]]})
                for end in (-END_OFFSET, END_OFFSET)
            )
            pairs.append((self.image(low), self.image(high)))
        return pairs

    def neighbors(self, face: Face, radius: float, count: int, seed: int) -> list[Tensor]:
        """Return inputs at an angle from that of a face, in random directions.

        Args:
            face: the face.
            radius: angle in radians; a random direction limits it, which is about pi / 2 away.
            count: number of inputs.
            seed: of the directions.

        Returns:
            Tensors [latent_size + classes] with the face's label and the length of its latent.
        """
        latent, size = self.latent(face), self.generator.latent_size
        center, label = latent[:size], latent[size:]
        stream = torch.Generator().manual_seed(seed)
        found = []
        for target in random_latents(count, self.generator, stream):
            target = target * (center.norm() / target.norm().clamp_min(1e-12))
            cosine = torch.nn.functional.cosine_similarity(center, target, dim=0)
            angle = math.acos(max(-1.0, min(1.0, float(cosine))))
            weight = min(1.0, radius / angle) if angle else 0.0
            moved = slerp(center, target, weight)
            found.append(torch.cat([within_training(moved, self.generator), label]))
        return found

    def path(self, start: Face, end: Face, frames: int) -> list[Tensor]:
        """Return inputs [latent_size + classes] from a face to another, both included.

        All have the label of the first face, since generators are not trained on mixed labels.
        """
        size = self.generator.latent_size
        first, last = self.latent(start), self.latent(end)
        steps = (slerp(first[:size], last[:size], step / (frames - 1)) for step in range(frames))
        return [torch.cat([within_training(step, self.generator), first[size:]]) for step in steps]

    def gif(self, request: GifRequest) -> bytes:
        """Return an animation from a face to another and back, which loops forever."""
        latents = self.path(request.start, request.end, request.frames)
        there = self.images(latents)
        side = there[0].shape[0] * max(1, _GIF_PIXELS // there[0].shape[0])
        frames: Iterator[Pixels] = chain(there, reversed(there[1:-1]))
        with TemporaryDirectory(prefix="atelier-explore-") as folder:
            file = Path(folder) / "interpolation.gif"
            write_gif((montage([frame], 1, side) for frame in frames), file, request.fps)
            return file.read_bytes()


def to_png(image: Pixels, factor: int = 1) -> bytes:
    """Encode an image, uint8 [H, W, C], as PNG; each pixel becomes a square of ``factor``."""
    if factor > 1:
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    file = io.BytesIO()
    # Level 1 takes a third of the default's time. The page is on this machine.
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def _cpu(values: Tensor | NDArray[np.float32]) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device="cpu")
