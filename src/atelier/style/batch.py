"""Painting several pictures in several styles."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from atelier.core.errors import AtelierError
from atelier.core.progress import Progress, ProgressCallback, silent
from atelier.core.random_streams import derive_seed
from atelier.core.setting_types import WEIGHTS
from atelier.core.settings import StylizeSettings
from atelier.style import memory
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.image_ops import scaled_shape, to_tensor, to_uint8
from atelier.style.loss_log import IterationLosses, Preview
from atelier.style.objective import Style, cast_vgg, weighted_sum
from atelier.style.pyramid import resize
from atelier.style.transfer import deepest, transfer_style
from atelier.style.vgg import build_vgg19, vgg19_on_meta

Pixels = NDArray[np.uint8]
Watch = Callable[[Preview], None]

_MAX_STRETCH = 0.02  # of a picture's width, so little that nobody sees it


@dataclass(frozen=True)
class StylizedImage:
    """A picture in the style of another, and how the losses fell.

    Attributes:
        content_image: name of what was painted.
        styles: name of the style, or of several with a plus between.
        content: uint8 [H, W, 3] RGB, as it was given.
        style: likewise.
        pixels: uint8 [h, w, 3] RGB, the shorter side as ``stylize.image_size`` says.
        losses: the losses of every evaluation.
    """

    content_image: str
    styles: str
    content: Pixels
    style: Pixels
    pixels: Pixels
    losses: tuple[IterationLosses, ...]

    @property
    def name(self) -> str:
        """Of the files it is written to: what was painted, in which style."""
        return _name(self.content_image, self.styles)

    def row(self) -> tuple[tuple[Pixels, str], tuple[Pixels, str], tuple[Pixels, str]]:
        """What it is made of and what it is, each with a caption."""
        return (
            (self.content, self.content_image),
            (self.style, self.styles),
            (self.pixels, self.name),
        )

    def curves(self) -> tuple[list[str], dict[int, list[float]]]:
        """Names of the losses, in all and by layer, and their values by iteration.

        The loss stands first, so that MLflow shows all paintings' curves of one loss together.
        """
        layers = list(self.losses[0].per_layer)
        names = [f"{loss}/{self.name}" for loss in ("loss", *layers)]
        rows = {it.iteration: [it.total, *it.per_layer.values()] for it in self.losses}
        return names, rows


@dataclass(frozen=True)
class _Group:
    """Pictures that are painted in one go, each with its own name and look."""

    names: list[tuple[str, str]]
    contents: list[Pixels]
    styles: list[tuple[Pixels, ...]]

    def titles(self) -> list[str]:
        """What its paintings are called."""
        return [_name(*name) for name in self.names]


class _ProgressRelay:
    """Tells of the paintings of all sittings as of one row."""

    def __init__(
        self,
        settings: StylizeSettings,
        paintings: int,
        report: ProgressCallback,
        watch: Watch | None,
    ) -> None:
        self.first = 0  # number of the sitting's first painting
        self.iterates: defaultdict[int, list[IterationLosses]] = defaultdict(list)
        self._most, self._paintings = settings.iterations, paintings
        self._report, self._watch = report, watch

    def on_losses(self, step: IterationLosses) -> None:
        """Keep the losses of an evaluation, and report it."""
        self.iterates[self.first + step.image].append(step)
        # The line search of L-BFGS may take one evaluation more than it was given.
        done = sum(min(len(steps), self._most) for steps in self.iterates.values())
        self._report(Progress(done, self._paintings * self._most, f"loss {step.total:.4g}"))

    def on_preview(self, glimpse: Preview) -> None:
        """Show a picture on its way to whoever watches."""
        if self._watch:
            self._watch(replace(glimpse, image=self.first + glimpse.image))


def stylize(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
    weights: Path,
    device: torch.device,
    report: ProgressCallback = silent,
    attempts: TransferCheckpoints | None = None,
    watch: Watch | None = None,
    say: Callable[[str], None] = lambda trouble: None,
) -> Iterator[StylizedImage]:
    """Paint every content in every style, or as ``pairing`` and the styles' weights say.

    Args:
        settings: the ``stylize`` section.
        contents: uint8 [H, W, 3] RGB by name.
        styles: likewise.
        masks: uint8 [H, W, 3] RGB, one for each style, white where it belongs; none for everywhere.
        weights: the folder of files that ``settings.weights`` may name.
        device: where to paint.
        report: counts evaluations.
        attempts: keeps unfinished pictures, and brings back those of an earlier attempt.
        watch: shown pictures while they are painted, each as it would be saved.
        say: told in a sentence where something went wrong that painting could mend.

    Yields:
        Each painting as soon as it is finished, in the order of :func:`output_names`.

    Raises:
        AtelierError: two paintings would have the same name, a mask has another shape than a
            picture, the weights cannot be had, a picture is too small, the memory is, or a loss
            stays not finite.
    """
    sittings = _groups(settings, contents, styles, masks)
    check_memory(settings, contents, styles, masks, device)
    vgg = load_vgg(settings, weights)
    teller = _ProgressRelay(settings, sum(len(one.names) for one in sittings), report, watch)
    for sitting in sittings:
        if attempts:
            attempts.first = teller.first
        prepared = [to_tensor(content, settings.image_size) for content in sitting.contents]
        looks = _styles(settings, sitting, prepared, masks)
        shown = teller.on_preview if watch else None
        given = (
            prepared,
            looks,
            settings,
            vgg,
            device,
            teller.on_losses,
            attempts,
            None,
            shown,
            say,
        )
        painted = transfer_style(*given, sitting.titles())
        yield from _load_finished(sitting, painted, teller)
        teller.first += len(sitting.names)


def load_vgg(settings: StylizeSettings, weights: Path) -> torch.nn.Sequential:
    """Build the network that the settings name; ``weights`` is the folder of files."""
    known = settings.weights in WEIGHTS
    source = settings.weights if known else str(weights / settings.weights)
    seed = derive_seed(settings.seed, "stylize.weights")
    return build_vgg19(source, settings.pooling, seed, deepest(settings), settings.padding)


def _load_finished(
    sitting: _Group, painted: Iterable[torch.Tensor], teller: _ProgressRelay
) -> Iterator[StylizedImage]:
    """Put each painting of a sitting beside what it is made of."""
    for number, result in enumerate(painted):
        yield StylizedImage(
            *sitting.names[number],
            sitting.contents[number],
            _stretch_to(sitting.styles[number]),
            to_uint8(result)[0],
            tuple(teller.iterates[teller.first + number]),
        )


def output_names(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
) -> list[tuple[str, str]]:
    """Picture and look of every painting that :func:`stylize` would make of the same."""
    sittings = _groups(settings, contents, styles, masks)
    return [name for sitting in sittings for name in sitting.names]


def check_memory(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
    device: torch.device,
) -> None:
    """Refuse what :func:`stylize` would have no memory for, before the first is painted.

    Raises:
        AtelierError: a painting needs more than is allowed; the sentence says which size fits.
    """
    vgg = cast_vgg(vgg19_on_meta(settings.pooling, deepest(settings)), settings, device)
    distinct = {
        (content.shape, tuple(style.shape for style in look)): None
        for sitting in _groups(settings, contents, styles, masks)
        for content, look in zip(sitting.contents, sitting.styles, strict=True)
    }
    memory.reject_too_large(
        [partial(_shapes, settings, *made_of) for made_of in distinct], settings, vgg
    )


def _shapes(
    settings: StylizeSettings,
    content: tuple[int, ...],
    styles: tuple[tuple[int, ...], ...],
    size: int,
) -> tuple[memory.Shape, list[memory.Shape]]:
    """Of a painting whose shorter side has ``size`` pixels, and of its styles."""
    style_size = _style_size(settings, size)
    return scaled_shape(content, size), [scaled_shape(style, style_size) for style in styles]


def _style_size(settings: StylizeSettings, size: int) -> int:
    """Pixels of a style's shorter side where the painting's has ``size``."""
    return max(1, round(size * settings.style_scale))


def _groups(
    settings: StylizeSettings,
    contents: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    masks: Sequence[Pixels],
) -> list[_Group]:
    """Who is painted how: style by style, each in its own, or in all styles at once."""
    _reject_other_shapes(contents, masks)
    names, pictures = list(contents), list(contents.values())
    if settings.style_weights and len(settings.style_weights) != len(styles):
        raise AtelierError(
            f"stylize.style_weights is a list of {len(settings.style_weights)}, but the number of"
            f" styles is {len(styles)}; give one for each."
        )
    if settings.style_weights or masks:
        every, look = "+".join(styles), tuple(styles.values())
        pairs = [(name, every) for name in names]
        sittings = [_Group([], pictures, [look] * len(names))]
    elif settings.pairing == "cycle":
        turns = [number % len(styles) for number in range(len(names))]
        pairs = [(name, list(styles)[turn]) for name, turn in zip(names, turns, strict=True)]
        sittings = [_Group([], pictures, [(list(styles.values())[turn],) for turn in turns])]
    else:
        pairs = [(name, style) for style in styles for name in names]
        sittings = [_Group([], pictures, [(style,)] * len(names)) for style in styles.values()]
    _reject_equal_names(pairs)
    told = iter(pairs)
    return [replace(one, names=[next(told) for _ in one.contents]) for one in sittings]


def _styles(
    settings: StylizeSettings,
    sitting: _Group,
    prepared: Sequence[torch.Tensor],
    masks: Sequence[Pixels],
) -> list[Style]:
    """One look for all where it is the same, else one for each content."""
    size = _style_size(settings, settings.image_size)
    grounds = {id(style): to_tensor(style, size) for look in sitting.styles for style in look}
    weights = tuple(settings.style_weights)
    looks = [
        Style(
            tuple(grounds[id(style)] for style in styles),
            weights,
            tuple(resize(_mask(mask), *content.shape[2:]).clamp(0, 1) for mask in masks),
        )
        for styles, content in zip(sitting.styles, prepared, strict=True)
    ]
    same = not masks and all(one is sitting.styles[0] for one in sitting.styles)
    return looks[:1] if same else looks


def _mask(mask: Pixels) -> torch.Tensor:
    """Turn a mask, uint8 [H, W, 3], into float32 [1, 1, H, W], 0 to 1: its lightness."""
    lightness = torch.from_numpy(mask.astype(np.float32)).mean(2) / 255
    return lightness[None, None]


def _stretch_to(styles: Sequence[Pixels]) -> Pixels:
    """Styles as one picture, side by side, as high as the highest."""
    height = max(len(style) for style in styles)
    widths = [max(1, round(style.shape[1] * height / len(style))) for style in styles]
    scaled = [
        style if len(style) == height else cv2.resize(style, (width, height)).astype(np.uint8)
        for style, width in zip(styles, widths, strict=True)
    ]
    return scaled[0] if len(scaled) == 1 else np.concatenate(scaled, axis=1)


def loss_table(paintings: Sequence[StylizedImage]) -> tuple[list[str], list[list[Any]]]:
    """The losses of every evaluation as a header and rows: in all, and by layer."""
    layers = list(paintings[0].losses[0].per_layer)
    rows = [
        [painting.name, step.iteration, f"{step.total:.6g}"]
        + [f"{step.per_layer[layer]:.6g}" for layer in layers]
        for painting in paintings
        for step in painting.losses
    ]
    return ["painting", "iteration", "loss", *layers], rows


def summary(paintings: Sequence[StylizedImage]) -> dict[str, Any]:
    """How many paintings there are, and the mean of their first and last losses."""
    first, last = (
        sum(painting.losses[at].total for painting in paintings) / len(paintings) for at in (0, -1)
    )
    return {"paintings": len(paintings), "first_loss": first, "loss": last}


def _name(content: str, style: str) -> str:
    return f"{content}-{style}"


def _reject_other_shapes(contents: Mapping[str, Pixels], masks: Sequence[Pixels]) -> None:
    """Refuse a mask that would have to be stretched to lie on a picture."""
    for mask in masks:
        for name, content in contents.items():
            (height, width), (tall, wide) = content.shape[:2], mask.shape[:2]
            # Sides are rounded where pictures are scaled.
            if abs(wide * height / tall - width) > max(_MAX_STRETCH * width, height / tall):
                raise AtelierError(
                    f"a mask of {wide} x {tall} pixels has not the shape of {name}, which has"
                    f" {width} x {height}; cut it to the picture's shape."
                )


def _reject_equal_names(pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse names whose paintings would overwrite each other, such as a-b in c and a in b-c."""
    seen: dict[str, tuple[str, str]] = {}
    for content, style in pairs:
        name = _name(content, style)
        if name in seen:
            raise AtelierError(
                f"two paintings would be called {name}: {seen[name][0]} in the style of"
                f" {seen[name][1]}, and {content} in the style of {style}; rename one of the"
                " pictures."
            )
        seen[name] = (content, style)


Floats = NDArray[np.float64]


def loss_terms_plot(
    paintings: Sequence[StylizedImage], settings: StylizeSettings
) -> tuple[Floats, dict[str, Floats]]:
    """Return iterations, float64 [N], and for each term its part of the loss, float64 [N].

    Each is the mean of all paintings. One that ended early keeps its last losses.

    Args:
        paintings: at least one.
        settings: what each term weighs.
    """
    last = max(painting.losses[-1].iteration for painting in paintings)
    iterations = np.arange(1, last + 1, dtype=np.float64)

    def mean(name: str) -> Floats:
        curves = []
        for painting in paintings:
            told = [step.iteration for step in painting.losses]
            values = [
                step.total if name == "loss" else step.per_layer[name] for step in painting.losses
            ]
            # Between and after those that were told, the one before.
            at = np.searchsorted(told, iterations, side="right") - 1
            curves.append(np.array(values)[at.clip(0)])
        return np.asarray(np.mean(curves, axis=0))

    lines = {"loss": mean("loss")}
    for name in paintings[0].losses[0].per_layer:
        part = weighted_sum({name: torch.from_numpy(mean(name))}, settings)
        lines[name.replace("_", " ")] = part.numpy()
    return iterations, lines
