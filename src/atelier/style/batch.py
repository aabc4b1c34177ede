"""Style transfer of several contents in several styles, with results and loss tables."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from atelier.core.arrays import to_uint8
from atelier.core.errors import AtelierError, SettingError, SettingName
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.random_streams import derive_seed
from atelier.core.resizing import resize_image
from atelier.core.setting_types import WEIGHTS
from atelier.core.settings import StylizeSettings
from atelier.style import memory
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.inputs import resize_to_tensor, scaled_shape
from atelier.style.loss_log import IterationLosses, Preview
from atelier.style.objective import Style, cast_vgg, weighted_sum
from atelier.style.pyramid import resize
from atelier.style.transfer import deepest_layer, transfer_style
from atelier.style.vgg import build_vgg19, vgg19_on_meta

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

    def curves(self) -> tuple[list[str], dict[int, list[float]]]:
        """Return the names of the total loss and its terms, and their values by iteration.

        Names start with the loss, so that MLflow groups the curves of all results by loss.
        """
        terms = list(self.losses[0].per_layer)
        names = [f"{loss}/{self.name}" for loss in ("loss", *terms)]
        rows = {it.iteration: [it.total, *it.per_layer.values()] for it in self.losses}
        return names, rows


@dataclass(frozen=True)
class _Group:
    """Contents that are stylized in one call of :func:`transfer_style`.

    Attributes:
        names: of each content and its styles.
        contents: uint8 [H, W, 3] RGB.
        styles: the style images of each content, likewise.
    """

    names: list[tuple[str, str]]
    contents: list[Pixels]
    styles: list[tuple[Pixels, ...]]


class _ProgressRelay:
    """Callbacks of one group, with the image numbers of all groups together.

    Attributes:
        first_image: number of the group's first image.
        losses: of all evaluations so far, by image number.
    """

    def __init__(
        self,
        settings: StylizeSettings,
        count: int,
        report: ProgressCallback,
        on_preview: Callable[[Preview], None] | None,
    ) -> None:
        self.first_image = 0
        self.losses: defaultdict[int, list[IterationLosses]] = defaultdict(list)
        self._iterations, self._count = settings.iterations, count
        self._report, self._on_preview = report, on_preview

    def on_losses(self, losses: IterationLosses) -> None:
        """Store the losses of an evaluation, and report the progress."""
        self.losses[self.first_image + losses.image].append(losses)
        # The line search of L-BFGS may make one evaluation more than ``iterations``.
        done = sum(min(len(rows), self._iterations) for rows in self.losses.values())
        total = self._count * self._iterations
        self._report(Progress(done, total, f"loss {losses.total:.4g}"))

    def on_preview(self, preview: Preview) -> None:
        """Pass a preview on."""
        if self._on_preview:
            self._on_preview(replace(preview, image=self.first_image + preview.image))


def stylize(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
    weights_dir: Path,
    device: torch.device,
    report: ProgressCallback = silent,
    checkpoints: TransferCheckpoints | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Iterator[StylizedImage]:
    """Stylize every content in every style, or as ``pairing`` and ``style_weights`` specify.

    Args:
        settings: the ``stylize`` section.
        contents: uint8 [H, W, 3] RGB by name.
        styles: likewise.
        masks: uint8 [H, W, 3] RGB, one for each style, white where the style applies; empty for
            the whole image.
        weights_dir: the folder of weight files that ``settings.weights`` may name.
        device: where to compute.
        report: called with the number of evaluations.
        checkpoints: saves unfinished images, and loads those of an earlier attempt.
        on_preview: called with unfinished images, postprocessed like results.
        warn: called with a sentence after a problem from which the optimization recovered.

    Yields:
        Each result as soon as it is finished, in the order of :func:`output_names`.

    Raises:
        AtelierError: two results would have the same name, a mask and a content differ in aspect
            ratio, the weights are not available, an image is too small, there is too little
            memory, or a loss stays non-finite.
    """
    groups = _groups(settings, contents, styles, masks)
    check_memory(settings, contents, styles, masks, device)
    vgg = load_vgg(settings, weights_dir)
    relay = _ProgressRelay(settings, sum(len(one.names) for one in groups), report, on_preview)
    for group in groups:
        if checkpoints:
            checkpoints.first_image = relay.first_image
        prepared = [resize_to_tensor(content, settings.image_size) for content in group.contents]
        results = transfer_style(
            prepared,
            _styles(settings, group, prepared, masks),
            settings,
            vgg,
            device,
            relay.on_losses,
            checkpointer=checkpoints,
            on_preview=relay.on_preview if on_preview else None,
            warn=warn,
            labels=[_name(*name) for name in group.names],
        )
        yield from _stylized_images(group, results, relay)
        relay.first_image += len(group.names)


def load_vgg(settings: StylizeSettings, weights_dir: Path) -> torch.nn.Sequential:
    """Build VGG19 with the weights that the settings name; files are in ``weights_dir``."""
    built_in = settings.weights in WEIGHTS
    source = settings.weights if built_in else str(weights_dir / settings.weights)
    seed = derive_seed(settings.seed, "stylize.weights")
    return build_vgg19(source, settings.pooling, seed, deepest_layer(settings), settings.padding)


def _stylized_images(
    group: _Group, results: Iterable[torch.Tensor], relay: _ProgressRelay
) -> Iterator[StylizedImage]:
    for number, result in enumerate(results):
        yield StylizedImage(
            *group.names[number],
            group.contents[number],
            _side_by_side(group.styles[number]),
            to_uint8(result, signed=False)[0].cpu().numpy(),
            tuple(relay.losses[relay.first_image + number]),
        )


def output_names(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
) -> list[tuple[str, str]]:
    """Return the content and style names of every result of :func:`stylize`, in order."""
    groups = _groups(settings, contents, styles, masks)
    return [name for group in groups for name in group.names]


def check_memory(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
    device: torch.device,
) -> None:
    """Raise if a result of :func:`stylize` does not fit into ``stylize.memory_gb``.

    Raises:
        AtelierError: at least one does not fit; the message names the largest size that does.
    """
    vgg = cast_vgg(vgg19_on_meta(settings.pooling, deepest_layer(settings)), settings, device)
    distinct = {
        (content.shape, tuple(image.shape for image in images)): None
        for group in _groups(settings, contents, styles, masks)
        for content, images in zip(group.contents, group.styles, strict=True)
    }
    memory.reject_too_large(
        [partial(_shapes_at_size, settings, *shapes) for shapes in distinct], settings, vgg
    )


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


def _groups(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
) -> list[_Group]:
    """Combine contents and styles: all styles at once, in turn, or one group for each style."""
    _reject_other_shapes(contents, masks)
    names, images = list(contents), list(contents.values())
    if settings.style_weights and len(settings.style_weights) != len(styles):
        raise SettingError(
            f"{{setting}} is a list of {len(settings.style_weights)}, but the number of styles is"
            f" {len(styles)}; give one for each.",
            setting=SettingName("stylize.style_weights"),
        )
    if settings.style_weights or masks:
        joined, all_styles = "+".join(styles), tuple(styles.values())
        pairs = [(name, joined) for name in names]
        groups = [_Group([], images, [all_styles] * len(names))]
    elif settings.pairing == "cycle":
        turns = [number % len(styles) for number in range(len(names))]
        pairs = [(name, list(styles)[turn]) for name, turn in zip(names, turns, strict=True)]
        groups = [_Group([], images, [(list(styles.values())[turn],) for turn in turns])]
    else:
        pairs = [(name, style) for style in styles for name in names]
        groups = [_Group([], images, [(style,)] * len(names)) for style in styles.values()]
    _reject_equal_names(pairs)
    remaining = iter(pairs)
    return [replace(group, names=[next(remaining) for _ in group.contents]) for group in groups]


def _styles(
    settings: StylizeSettings,
    group: _Group,
    prepared: Sequence[torch.Tensor],
    masks: Sequence[Pixels],
) -> list[Style]:
    """Return one style if all contents share it, otherwise one for each content."""
    size = _style_size(settings, settings.image_size)
    tensors = {
        id(image): resize_to_tensor(image, size) for images in group.styles for image in images
    }
    styles = [
        Style(
            tuple(tensors[id(image)] for image in images),
            tuple(settings.style_weights),
            tuple(resize(_mask(mask), *content.shape[2:]).clamp(0, 1) for mask in masks),
        )
        for images, content in zip(group.styles, prepared, strict=True)
    ]
    shared = not masks and all(images is group.styles[0] for images in group.styles)
    return styles[:1] if shared else styles


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


def summary(images: Sequence[StylizedImage]) -> dict[str, Any]:
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


def _reject_other_shapes(contents: Mapping[str, Pixels], masks: Sequence[Pixels]) -> None:
    """Raise if the aspect ratios of a mask and a content differ."""
    for mask in masks:
        for name, content in contents.items():
            (height, width), (mask_height, mask_width) = content.shape[:2], mask.shape[:2]
            difference = abs(mask_width * height / mask_height - width)
            # Sides of scaled images are rounded.
            if difference > max(_MAX_STRETCH * width, height / mask_height):
                raise AtelierError(
                    f"a mask of {mask_width} x {mask_height} pixels differs in aspect ratio from"
                    f" {name}, which has {width} x {height}; crop the mask to that shape."
                )


def _reject_equal_names(pairs: Iterable[tuple[str, str]]) -> None:
    """Raise if two results would have the same name, e.g. a-b in style c and a in style b-c."""
    pair_by_name: dict[str, tuple[str, str]] = {}
    for content, style in pairs:
        name = _name(content, style)
        if name in pair_by_name:
            other_content, other_style = pair_by_name[name]
            raise AtelierError(
                f"two stylized images would be named {name}: {other_content} in the style of"
                f" {other_style}, and {content} in the style of {style}; rename one of the files."
            )
        pair_by_name[name] = (content, style)
