"""Style transfer of several contents in several styles, with results and loss tables."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError, SettingError, SettingName
from atelier.core.progress import Progress
from atelier.core.random_streams import derive_seed
from atelier.core.resizing import resize_image
from atelier.core.setting_types import WEIGHTS
from atelier.core.settings import StylizeSettings
from atelier.style import memory
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.inputs import StyleInputs, resize_to_tensor, scaled_shape
from atelier.style.loss_log import IterationLosses, Preview, StyleEvents
from atelier.style.objective import Style, cast_vgg, weighted_sum
from atelier.style.pyramid import resize
from atelier.style.transfer import TransferTask, deepest_layer, transfer_style
from atelier.style.vgg import build_vgg19, device_of, vgg19_on_meta

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

# Largest invisible distortion of a mask that is stretched onto a content, relative to the width.
_MAX_STRETCH = 0.02


@dataclass(frozen=True)
class StylizedImage:
    """Result of a style transfer, with its sources and losses.

    Attributes:
        content_image: name of the content.
        styles: name of the style, or names of several, joined by ``+``.
        content: the content as loaded, uint8 [H, W, 3] RGB.
        style: the style as loaded, likewise; several side by side.
        pixels: uint8 [h, w, 3] RGB; the shorter side has ``stylize.image_size`` pixels.
        losses: the losses of all evaluations.
    """

    content_image: str
    styles: str
    content: Pixels
    style: Pixels
    pixels: Pixels
    losses: tuple[IterationLosses, ...]

    @property
    def name(self) -> str:
        """Name of the result and its files: content and style, joined by a hyphen."""
        return _name(self.content_image, self.styles)

    def row(self) -> tuple[tuple[Pixels, str], tuple[Pixels, str], tuple[Pixels, str]]:
        """Return content, style and result, each with a caption."""
        return (
            (self.content, self.content_image),
            (self.style, self.styles),
            (self.pixels, self.name),
        )

    def relative_losses(self) -> list[float]:
        """Return the share of the loss that is left after each evaluation.

        Losses of two pyramid levels do not compare. Each level's losses are therefore relative to
        its first one, and start at the share that the level before reached.
        """
        shares: list[float] = []
        level, first, reached = -1, 0.0, 1.0
        for losses in self.losses:
            if losses.level != level:
                level, first = losses.level, losses.total
                reached = shares[-1] if shares else 1.0
            shares.append(reached * (losses.total / first if first else 1.0))
        return shares


class _Pair(NamedTuple):
    """Names of a content and its styles."""

    content: str
    styles: tuple[str, ...]

    def joined_styles(self) -> str:
        """Return the names of the styles, joined by ``+``."""
        return "+".join(self.styles)


class _LossRecorder(StyleEvents):
    """Records losses and computes the progress of all images; everything is passed on.

    Attributes:
        losses: of all evaluations so far, by the index of the result.
    """

    def __init__(self, events: StyleEvents, iterations: int, images: int) -> None:
        self.losses: defaultdict[int, list[IterationLosses]] = defaultdict(list)
        self._events, self._iterations, self._images = events, iterations, images
        self._warnings: set[str] = set()

    def on_losses(self, losses: IterationLosses) -> None:
        """Record the losses of an evaluation, and report the progress."""
        self.losses[losses.image].append(losses)
        self._events.on_losses(losses)
        # The line search of L-BFGS may make one evaluation more than ``iterations``.
        done = sum(min(len(rows), self._iterations) for rows in self.losses.values())
        total = self._images * self._iterations
        self._events.on_progress(Progress(done, total, f"loss {losses.total:.4g}"))

    def on_preview(self, preview: Preview) -> None:
        """Pass a preview on."""
        self._events.on_preview(preview)

    def warn(self, *warnings: str) -> None:
        """Pass warnings on, each once: one on the GPU would be repeated for every style."""
        new = [warning for warning in warnings if warning not in self._warnings]
        self._warnings.update(new)
        if new:
            self._events.warn(*new)


def stylize(
    inputs: StyleInputs,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    events: StyleEvents | None = None,
    checkpoints: TransferCheckpoints | None = None,
) -> Iterator[StylizedImage]:
    """Stylize every content in every style, or as ``pairing`` and ``style_weights`` specify.

    Args:
        inputs: contents, styles and masks.
        settings: the ``stylize`` section.
        vgg: from :func:`load_vgg`, on the device of the computation.
        events: receives losses, progress, previews and warnings.
        checkpoints: saves unfinished images, and loads those of an earlier attempt.

    Yields:
        Each result as soon as it is finished, in the order of :func:`output_names`.

    Raises:
        AtelierError: two results would have the same name, a mask and a content differ in aspect
            ratio, an image is too small, there is too little memory, or a loss stays non-finite.
    """
    groups = _groups(inputs, settings)
    # Once, so that all images have the same tiles, although some are still in memory.
    settings = memory.resolve_memory_limit(settings, device_of(vgg))
    check_memory(inputs, settings, device_of(vgg))
    count = sum(map(len, groups))
    recorder = _LossRecorder(events or StyleEvents(), settings.iterations, count)
    first = 0
    for group in groups:
        tasks = _tasks(group, first, inputs, settings)
        results = transfer_style(tasks, settings, vgg, recorder, checkpoints)
        for pair, task, result in zip(group, tasks, results, strict=True):
            yield StylizedImage(
                pair.content,
                pair.joined_styles(),
                inputs.contents[pair.content],
                _side_by_side([inputs.styles[name] for name in pair.styles]),
                to_uint8(result, signed=False)[0].cpu().numpy(),
                tuple(recorder.losses[task.number]),
            )
        first += len(group)


def load_vgg(settings: StylizeSettings, weights_dir: Path) -> nn.Sequential:
    """Build VGG19 with the weights that the settings name; files are in ``weights_dir``."""
    built_in = settings.weights in WEIGHTS
    source = settings.weights if built_in else str(weights_dir / settings.weights)
    seed = derive_seed(settings.seed, "stylize.weights")
    return build_vgg19(source, settings.pooling, seed, deepest_layer(settings), settings.padding)


def output_names(inputs: StyleInputs, settings: StylizeSettings) -> list[tuple[str, str]]:
    """Return the content and style names of every result of :func:`stylize`, in order."""
    groups = _groups(inputs, settings)
    return [(pair.content, pair.joined_styles()) for group in groups for pair in group]


def check_memory(inputs: StyleInputs, settings: StylizeSettings, device: torch.device) -> None:
    """Raise if a result of :func:`stylize` does not fit into ``stylize.memory_gb``.

    Raises:
        AtelierError: at least one does not fit; the message names the largest size that does.
    """
    settings = memory.resolve_memory_limit(settings, device)
    vgg = cast_vgg(vgg19_on_meta(settings.pooling, deepest_layer(settings)), settings, device)
    distinct = dict.fromkeys(
        (inputs.contents[pair.content].shape, tuple(inputs.styles[n].shape for n in pair.styles))
        for group in _groups(inputs, settings)
        for pair in group
    )
    shapes = [partial(_shapes_at_size, settings, *shapes) for shapes in distinct]
    memory.reject_too_large(shapes, settings, vgg)


def _shapes_at_size(
    settings: StylizeSettings,
    content: tuple[int, ...],
    styles: tuple[tuple[int, ...], ...],
    size: int,
) -> tuple[memory.Shape, list[memory.Shape]]:
    """Return the shapes of a result and its styles, for a shorter side of ``size`` pixels."""
    style_size = _style_size(settings, size)
    return scaled_shape(content, size), [scaled_shape(style, style_size) for style in styles]


def _style_size(settings: StylizeSettings, size: int) -> int:
    """Return the shorter side of a style, for a result with a shorter side of ``size``."""
    return max(1, round(size * settings.style_scale))


def _groups(inputs: StyleInputs, settings: StylizeSettings) -> list[list[_Pair]]:
    """Combine contents and styles: all styles at once, in turn, or one group for each style."""
    _reject_other_shapes(inputs)
    contents, styles = inputs.contents, tuple(inputs.styles)
    if settings.style_weights and len(settings.style_weights) != len(styles):
        raise SettingError(
            f"{{setting}} is a list of {len(settings.style_weights)}, but the number of styles is"
            f" {len(styles)}; give one for each.",
            setting=SettingName("stylize.style_weights"),
        )
    if settings.style_weights or inputs.masks:
        groups = [[_Pair(content, styles) for content in contents]]
    elif settings.pairing == "cycle":
        turns = itertools.cycle(styles)
        groups = [[_Pair(content, (next(turns),)) for content in contents]]
    else:
        groups = [[_Pair(content, (style,)) for content in contents] for style in styles]
    _reject_equal_names(itertools.chain(*groups))
    return groups


def _tasks(
    group: Sequence[_Pair], first: int, inputs: StyleInputs, settings: StylizeSettings
) -> list[TransferTask]:
    """Convert the images of a group to tensors; ``first`` is the index of its first result."""
    size = _style_size(settings, settings.image_size)
    names = dict.fromkeys(name for pair in group for name in pair.styles)
    images = {name: resize_to_tensor(inputs.styles[name], size) for name in names}
    # Contents with the same styles share an object, unless masks are resized to their sizes.
    styles = {
        styles: Style(tuple(images[name] for name in styles), tuple(settings.style_weights))
        for _, styles in group
    }
    tasks = []
    for number, pair in enumerate(group, first):
        content = resize_to_tensor(inputs.contents[pair.content], settings.image_size)
        style = styles[pair.styles]
        if inputs.masks:
            height, width = content.shape[2:]
            masks = [resize(_mask(mask), height, width).clamp(0, 1) for mask in inputs.masks]
            style = replace(style, masks=tuple(masks))
        name = _name(pair.content, pair.joined_styles())
        tasks.append(TransferTask(number, name, content, style))
    return tasks


def _mask(mask: Pixels) -> torch.Tensor:
    """Convert a mask, uint8 [H, W, 3], to float32 [1, 1, H, W], 0 to 1: the mean of channels."""
    mean = torch.from_numpy(mask.astype(np.float32)).mean(2) / 255
    return mean[None, None]


def _side_by_side(styles: Sequence[Pixels]) -> Pixels:
    """Return style images side by side, scaled to the height of the highest."""
    height = max(len(style) for style in styles)
    widths = [max(1, round(style.shape[1] * height / len(style))) for style in styles]
    scaled = [
        style if len(style) == height else resize_image(style, height, width, "linear")
        for style, width in zip(styles, widths, strict=True)
    ]
    return scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=1)


def loss_table(images: Sequence[StylizedImage]) -> tuple[list[str], list[list[Any]]]:
    """Return the total loss and its terms at every evaluation, as a header and rows."""
    terms = list(images[0].losses[0].per_layer)
    rows = [
        [image.name, losses.iteration, f"{losses.total:.6g}"]
        + [f"{losses.per_layer[term]:.6g}" for term in terms]
        for image in images
        for losses in image.losses
    ]
    return ["painting", "iteration", "loss", *terms], rows


def mean_relative_losses(images: Sequence[StylizedImage]) -> dict[int, float]:
    """Return the mean of :meth:`StylizedImage.relative_losses` by iteration.

    The last loss of a result that ended early is repeated.
    """
    curves = [image.relative_losses() for image in images]
    table = itertools.zip_longest(*curves)
    means: dict[int, float] = {}
    last = [1.0] * len(curves)
    for iteration, row in enumerate(table, start=1):
        last = [old if new is None else new for old, new in zip(last, row, strict=True)]
        means[iteration] = sum(last) / len(last)
    return means


def metrics(images: Sequence[StylizedImage]) -> dict[str, float]:
    """Return the metrics that runs are compared by: the mean of the last losses."""
    return {"style_loss": details(images)["loss"]}


def details(images: Sequence[StylizedImage]) -> dict[str, Any]:
    """Return the number of results, and the means of their first and last losses."""
    first, last = (
        sum(image.losses[index].total for image in images) / len(images) for index in (0, -1)
    )
    return {"paintings": len(images), "first_loss": first, "loss": last}


def loss_terms_plot(
    images: Sequence[StylizedImage], settings: StylizeSettings
) -> tuple[Floats, dict[str, Floats]]:
    """Return iterations, float64 [N], and the total loss and weighted terms, float64 [N] each.

    Values are means over all results. The last losses of a result that ended early are repeated.

    Args:
        images: at least one.
        settings: the weights of the terms.
    """
    last = max(image.losses[-1].iteration for image in images)
    iterations = np.arange(1, last + 1, dtype=np.float64)

    def mean(name: str) -> Floats:
        curves = []
        for image in images:
            recorded = [losses.iteration for losses in image.losses]
            values = [
                losses.total if name == "loss" else losses.per_layer[name]
                for losses in image.losses
            ]
            # Iterations without a recorded loss repeat the previous one.
            index = np.searchsorted(recorded, iterations, side="right") - 1
            curves.append(np.array(values)[index.clip(0)])
        return np.asarray(np.mean(curves, axis=0))

    lines = {"loss": mean("loss")}
    for name in images[0].losses[0].per_layer:
        weighted = weighted_sum({name: torch.from_numpy(mean(name))}, settings)
        lines[name.replace("_", " ")] = weighted.numpy()
    return iterations, lines


def _name(content: str, style: str) -> str:
    return f"{content}-{style}"


def _reject_other_shapes(inputs: StyleInputs) -> None:
    """Raise if the aspect ratios of a mask and a content differ."""
    for mask in inputs.masks:
        for name, content in inputs.contents.items():
            (height, width), (mask_height, mask_width) = content.shape[:2], mask.shape[:2]
            difference = abs(mask_width * height / mask_height - width)
            # Sides of scaled images are rounded.
            if difference > max(_MAX_STRETCH * width, height / mask_height):
                raise AtelierError(
                    f"a mask of {mask_width} x {mask_height} pixels differs in aspect ratio from"
                    f" {name}, which has {width} x {height}; crop the mask to that shape."
                )


def _reject_equal_names(pairs: Iterable[_Pair]) -> None:
    """Raise if two results would have the same name, e.g. a-b in style c and a in style b-c."""
    pair_by_name: dict[str, _Pair] = {}
    for pair in pairs:
        name = _name(pair.content, pair.joined_styles())
        other = pair_by_name.setdefault(name, pair)
        if other is not pair:
            raise AtelierError(
                f"two stylized images would be named {name}: {other.content} in the style of"
                f" {other.joined_styles()}, and {pair.content} in the style of"
                f" {pair.joined_styles()}; rename one of the files."
            )
