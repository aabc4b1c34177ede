"""Style transfer of generated faces as jobs, and the styles to choose from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError, printable
from atelier.core.resizing import resize_image
from atelier.core.setting_types import STYLES
from atelier.core.settings import StylizeSettings
from atelier.data.color_managed import load_source_image
from atelier.data.image_file import UnreadableError, read_image
from atelier.style.batch import load_vgg, stylize
from atelier.style.demo_styles import demo_style_image, demo_style_sources
from atelier.style.inputs import StyleInputs
from atelier.style.loss_log import IterationLosses, Preview, StyleEvents
from atelier.style.pyramid import levels
from atelier.web.explorer.explored_generator import to_png
from atelier.web.explorer.jobs import Job

Pixels = NDArray[np.uint8]

ITERATIONS = 60
MAX_STYLES = 60  # of the folder; more would make the page long
PREVIEWS = 30

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", ".avif", ".heic"}
_STYLE_SIZE = 512  # pixels of a built-in style
_MAX_SIDE = 2 * _STYLE_SIZE  # shorter side of a style
_MAX_PIXELS = 4 * _MAX_SIDE**2  # of a style, which can be a panorama
_THUMBNAIL = 96
_MAX_NAME = 500  # characters of a path in messages
_CACHED = 4  # decoded styles


class Styles:
    """Built-in styles and the images of a folder, by their index.

    The names are read once, so that an index does not change its meaning.

    Args:
        folder: of the user's images; it may be missing. Links that leave it are ignored.
        max_megapixels: larger images are refused.
        seed: of the built-in styles.
    """

    def __init__(self, folder: Path, max_megapixels: int, seed: int) -> None:
        self._folder, self._max_megapixels, self._seed = folder, max_megapixels, seed
        sources = demo_style_sources(_STYLE_SIZE, seed)
        self._builtin = {name: sources[name] for name in STYLES}
        self.names: list[str] = [*self._builtin, *_image_files(folder)[:MAX_STYLES]]
        self._images: dict[int, Pixels] = {}
        self._thumbnails: dict[int, bytes] = {}

    def image(self, index: int) -> Pixels:
        """Return a style, uint8 [H, W, 3].

        Raises:
            AtelierError: there is no style of this index, or it cannot be read.
        """
        name = self._name(index)
        if index not in self._images:
            if name in self._builtin:
                (pixels,) = self._builtin[name]().values()
            else:
                with self._errors_as_sentences(name):
                    pixels = load_source_image(self._folder / name, self._max_megapixels).pixels
            while len(self._images) >= _CACHED:
                del self._images[next(iter(self._images))]
            self._images[index] = _limited(pixels)
        return self._images[index]

    def thumbnail(self, index: int) -> bytes:
        """Return a small square of a style as PNG.

        Raises:
            AtelierError: as for :meth:`image`.
        """
        name = self._name(index)
        if index not in self._thumbnails:
            if name in self._builtin:  # drawn smaller, which takes a seventh of the time
                image = demo_style_image(name, 2 * _THUMBNAIL, self._seed)
            else:
                with self._errors_as_sentences(name):
                    # Decoded at a reduced size if the format permits it.
                    file = self._folder / name
                    image = read_image(file, "rgb", self._max_megapixels, _THUMBNAIL)
            side = min(image.shape[:2])
            top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
            square = np.ascontiguousarray(image[top : top + side, left : left + side])
            self._thumbnails[index] = to_png(resize_image(square, _THUMBNAIL, _THUMBNAIL, "area"))
        return self._thumbnails[index]

    @contextmanager
    def _errors_as_sentences(self, name: str) -> Iterator[None]:
        shown = printable(self._folder / name, _MAX_NAME)
        try:
            yield
        except FileNotFoundError:
            raise AtelierError(f"there is no image {shown} any more; reload the page.") from None
        except UnreadableError as error:
            raise AtelierError(f"{shown} cannot be read ({error}).") from None

    def _name(self, index: int) -> str:
        if not 0 <= index < len(self.names):
            raise AtelierError(f"there is no style {index}: there are {len(self.names)}.")
        return self.names[index]


def _image_files(folder: Path) -> list[str]:
    """Return the names of the images in a folder, without links that leave it."""
    if not folder.is_dir():
        return []
    inside = folder.resolve()
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.suffix.lower() in _SUFFIXES
        and file.name[0] != "."
        and file.is_file()
        and file.resolve().parent == inside
    )


def _limited(image: Pixels) -> Pixels:
    """Downscale an image of more than 1,024 pixels on the shorter side or too many in all."""
    height, width = image.shape[:2]
    factor = min(_MAX_SIDE / min(height, width), (_MAX_PIXELS / (height * width)) ** 0.5)
    if factor >= 1:
        return image
    new_height, new_width = (max(1, round(side * factor)) for side in (height, width))
    return resize_image(image, new_height, new_width, "area")


@dataclass
class Painter:
    """Style transfer of faces.

    Attributes:
        settings: the ``stylize`` section; size, strength and style are replaced.
        device: of the computation.
        weights: folder of the weights' files.
    """

    settings: StylizeSettings
    device: torch.device
    weights: Path
    _vgg: nn.Sequential | None = None

    def paint(
        self, job: Job, face: Pixels, style: Pixels, strength: float, pixels: int
    ) -> dict[str, Any]:
        """Stylize a face, and show its intermediates in the job.

        Args:
            job: receives progress and images.
            face: uint8 [H, W, C].
            style: uint8 [H, W, 3].
            strength: 0 (unchanged face) to 1.
            pixels: height and width of the painting.
        """
        settings = self._settings(strength, pixels)
        if self._vgg is None:
            self._vgg = load_vgg(settings, self.weights).to(self.device)
        rgb = np.ascontiguousarray(np.broadcast_to(face, (*face.shape[:2], 3)))
        inputs = StyleInputs({"face": rgb}, {"style": style})
        (painting,) = stylize(inputs, settings, self._vgg, _JobEvents(job, settings, pixels))
        job.show(to_png(painting.pixels))
        return {"width": painting.pixels.shape[1], "height": painting.pixels.shape[0]}

    def _settings(self, strength: float, pixels: int) -> StylizeSettings:
        changes = {
            "contents": ["face"],
            "styles": ["style"],
            "style_masks": [],
            "style_weights": [],
            "style_strength": strength,
            "image_size": pixels,
            "save_intermediates": min(PREVIEWS, self.settings.iterations),
        }
        return self.settings.model_copy(update=changes)


class _JobEvents(StyleEvents):
    """Observer that passes progress and intermediates to a job."""

    def __init__(self, job: Job, settings: StylizeSettings, pixels: int) -> None:
        self._job, self._evaluations = job, 0
        # An evaluation takes time in proportion to the pixels of its level.
        self._costs: list[int] = []
        for level in levels(settings, pixels, pixels):
            count = level.end_iteration - len(self._costs)
            self._costs += count * [level.height * level.width]

    def on_losses(self, losses: IterationLosses) -> None:
        """Report the share of the work that is done."""
        self._evaluations = losses.iteration
        self._job.report(sum(self._costs[: self._evaluations]) / sum(self._costs))

    def on_preview(self, preview: Preview) -> None:
        """Show an intermediate image; one that is not finite is about to be undone."""
        self._job.report(self._job.fraction)
        if bool(preview.pixels.isfinite().all()):
            self._job.show(to_png(to_uint8(preview.pixels, signed=False)[0].cpu().numpy()))
