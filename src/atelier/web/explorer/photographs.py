"""Inversion of uploaded photographs as jobs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from atelier.core.events import Events
from atelier.core.progress import Progress
from atelier.core.settings import ConvertSettings
from atelier.latents.distances import load_vgg
from atelier.latents.inversion import InversionOptions, invert, psnr_text
from atelier.latents.photograph import prepare_target
from atelier.web.explorer.explored_generator import ExploredGenerator, to_png
from atelier.web.explorer.jobs import Job

Pixels = NDArray[np.uint8]

MAX_BYTES = 32 * 1024 * 1024
"""Largest size of an uploaded file."""


@dataclass(frozen=True)
class Target:
    """A photograph in the generator's size, and sentences on its preparation."""

    image: Pixels
    warnings: tuple[str, ...]


@dataclass
class Photographs:
    """Inversion of photographs.

    Attributes:
        explored: the generator.
        settings: the ``convert`` section: crop, faces and limits of an image.
        options: of the inversion.
        face_weights: content of the face detector's file if the detector is ``yunet``.
    """

    explored: ExploredGenerator
    settings: ConvertSettings
    options: InversionOptions
    face_weights: bytes = b""
    _vgg: nn.Sequential | None = None

    def target(self, content: bytes) -> Target:
        """Decode and crop a photograph, which is not trusted.

        Raises:
            AtelierError: it is not a readable image or exceeds the limits.
        """
        events = _Warnings()
        image = prepare_target(
            content,
            self.explored.generator,
            self.settings,
            name="your photograph",
            face_weights=self.face_weights,
            events=events,
        )
        return Target(image, tuple(events.sentences))

    def invert(self, job: Job, target: Target) -> dict[str, Any]:
        """Find the face that is nearest to a photograph.

        Returns:
            ``face`` (fields of a request), ``psnr`` in dB, ``description`` and ``warnings``.
        """
        generator = self.explored.generator
        if self._vgg is None and self.options.refinements:
            self._vgg = load_vgg(generator.device)
        job.show(to_png(target.image))
        result = invert(
            generator,
            target.image,
            self.options,
            vgg=self._vgg,
            events=_JobEvents(job),
        )
        return {
            "face": self.explored.face_of(result.latent).model_dump(),
            "psnr": min(round(result.psnr, 2), 99.0),
            "description": psnr_text(result.psnr),
            "warnings": list(target.warnings),
        }


class _JobEvents(Events):
    """Observer that passes the progress to a job."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_progress(self, progress: Progress) -> None:
        """Report the share of the evaluations that are done."""
        self._job.report(progress.done / progress.total if progress.total else 0.0)


class _Warnings(Events):
    """Observer that collects warnings."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def warn(self, *warnings: str) -> None:
        """Store each warning."""
        self.sentences += warnings
