"""The command ``atelier stylize``, which stylizes any images of the user."""

import math
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from atelier.cli.checkout import PARAMS, PRESETS, name_options, require_force, write_output
from atelier.core.errors import AtelierError
from atelier.core.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from atelier.core.settings import Settings, StylizeSettings
    from atelier.data.color_managed import SourceImage
    from atelier.style.batch import StylizedImage
    from atelier.style.checkpoint import Intermediates
    from atelier.style.inputs import StyleInputs

    Pixels = NDArray[np.uint8]

STYLIZED = Path("painted")
WEIGHTS = Path("data/weights")
MAX_PIXELS = 2**20  # of a stylized image, unless --size is set
MIN_SIZE = 32  # pixels of its shorter side, unless --size is set
_GIF_FRAMES = 24  # at least; intermediates are also what an interruption saves
_DEMO_STYLE_SIZE = 1024  # pixels of a built-in style image
_INTERRUPTED = 130
_OPTIONS = {
    "image_size": "--size",
    "pairing": "--pairing",
    "style_masks": "--style-mask",
    "style_weights": "--style-weights",
    "style_strength": "--strength",
    "preserve_color": "--preserve-color",
    "iterations": "--iterations",
    "weights": "--weights",
}
_DEFAULT_PRESET = "photo"
_Images = Annotated[list[str], typer.Argument(help="images to stylize", metavar="IMAGE")]
_Style = Annotated[
    list[str],
    typer.Option(
        help="style image; or night_sky, wave, stained_glass (built in); repeat it for several",
        metavar="STYLE",
    ),
]
_Size = Annotated[
    int, typer.Option(help="pixels of the shorter side", show_default="its own, at most 512")
]
_Out = Annotated[
    Path, typer.Option(help="a folder, or a file for one image", show_default="painted/")
]
_StyleMask = Annotated[
    list[str] | None,
    typer.Option(help="a mask for each style: white where it applies", metavar="MASK"),
]
_StyleWeights = Annotated[
    str, typer.Option(help="e.g. 2,1: mix all styles in each image, with these weights")
]
_Pairing = Annotated[
    str,
    typer.Option(help="product: each image in each style; cycle: styles take turns", metavar="HOW"),
]
_Strength = Annotated[
    float | None, typer.Option(help="from 0, the image itself, to 1, the full style")
]
_PreserveColor = Annotated[
    str | None, typer.Option(help="none, luminance or histogram", metavar="HOW")
]
_Iterations = Annotated[
    int | None, typer.Option(help="optimization steps; more take longer, for a stronger style")
]
_Weights = Annotated[
    str | None, typer.Option(help="vgg19_caffe, imagenet, random or a file", metavar="VGG19")
]
_Preset = Annotated[
    str | None, typer.Option(help="preset whose values are used", show_default=_DEFAULT_PRESET)
]
_Params = Annotated[bool, typer.Option("--params", help="use params.yaml instead of a preset")]
_Gif = Annotated[bool, typer.Option("--gif", help="also write a GIF of each image's intermediates")]
_Force = Annotated[bool, typer.Option("--force", help="replace existing files")]


def stylize(
    images: _Images,
    *,
    style: _Style,
    size: _Size = 0,
    out: _Out = STYLIZED,
    style_mask: _StyleMask = None,
    style_weights: _StyleWeights = "",
    pairing: _Pairing = "product",
    strength: _Strength = None,
    preserve_color: _PreserveColor = None,
    iterations: _Iterations = None,
    weights: _Weights = None,
    preset: _Preset = None,
    params: _Params = False,
    gif: _Gif = False,
    force: _Force = False,
) -> None:
    """Stylize images in the style of other images.

    Example: atelier stylize me.jpg --style painting.jpg --style night_sky
    """
    from atelier.core.device import choose_device
    from atelier.core.settings import load
    from atelier.style.batch import load_vgg

    _reject_lists(sys.argv[1:], images)
    preset, settings = _choose_preset(preset, params), load(PARAMS)
    options = {
        "style_strength": strength,
        "preserve_color": preserve_color,
        "iterations": iterations,
        "weights": weights and Path(weights).name,
        "image_size": size or None,
        "pairing": pairing,
    }
    masks = style_mask or []
    with name_options("stylize", _OPTIONS, f"{PRESETS / preset}.yaml" if preset else str(PARAMS)):
        merged = _merge_settings(
            settings, preset, options, len(style), len(masks), _numbers(style_weights)
        )
        jobs = _jobs(merged, images, style, masks, settings.convert.max_megapixels, size)
        targets = _targets(jobs, images, out)
        device = choose_device(settings.runtime.device)
        _check_request(jobs, targets, device, gif, force)
        vgg = load_vgg(merged, Path(weights).parent if weights else WEIGHTS).to(device)
        _print_estimate(jobs, vgg)
        for job in jobs:
            _run(job, targets, vgg, gif, settings.runtime.progress)


def _reject_lists(arguments: list[str], images: list[str]) -> None:
    """Raise if an option has several values: the second one would be taken for an image."""
    for position, argument in enumerate(arguments):
        option = arguments[position - 2] if position > 2 else ""
        others = set(arguments[: max(0, position - 2)]) & set(images)
        if argument in images and option in ("--style", "--style-mask") and others:
            raise AtelierError(
                f"{argument} follows the value of {option}, which takes one value; type {option}"
                f" again before {argument}, or put all images first."
            )


def _choose_preset(preset: str | None, params: bool) -> str:
    """Return the preset to use; empty for the values of params.yaml."""
    if params and preset:
        raise AtelierError("--preset and --params exclude each other; give one of them.")
    return "" if params else preset or _DEFAULT_PRESET


@dataclass(frozen=True)
class _Job:
    """Images that are stylized at one size, with their styles and masks."""

    settings: "StylizeSettings"
    originals: "dict[str, SourceImage]"
    inputs: "StyleInputs"

    def names(self) -> list[tuple[str, str]]:
        """Return (image, style) of each output, in order."""
        from atelier.style.batch import output_names

        return output_names(self.inputs, self.settings)

    def shape(self, original: "SourceImage") -> tuple[int, int]:
        """Return height and width of a stylized image in pixels."""
        from atelier.style.inputs import scaled_shape

        return scaled_shape(original.pixels.shape, self.settings.image_size)


def _jobs(
    settings: "StylizeSettings",
    images: list[str],
    styles: list[str],
    masks: list[str],
    max_megapixels: int,
    size: int,
) -> list[_Job]:
    """Read images, styles and masks; group the images by the size of their outputs.

    Args:
        settings: settings of all outputs.
        images: files to stylize.
        styles: files, or names of built-in styles.
        masks: files.
        max_megapixels: larger images are rejected.
        size: pixels of each output's shorter side; 0 for the image's own.
    """
    from atelier.data.color_managed import load_by_name, masks_of, pixels_of
    from atelier.style.demo_styles import demo_style_sources
    from atelier.style.inputs import StyleInputs

    demo_styles = demo_style_sources(_DEMO_STYLE_SIZE, settings.seed)
    originals = load_by_name(images, Path(), max_megapixels, {})
    loaded_styles = pixels_of(load_by_name(styles, Path(), max_megapixels, demo_styles))
    loaded_masks = masks_of(load_by_name(masks, Path(), max_megapixels, {}))
    sizes = [
        size or min(own_size(*original.pixels.shape[:2]), settings.image_size)
        for original in originals.values()
    ]
    style_sets = [loaded_styles]
    if settings.pairing == "cycle" and len(set(sizes)) > 1:
        # Styles take turns among all images, not among those of one size.
        style_sets = [{name: pixels} for name, pixels in loaded_styles.items()]
    groups: defaultdict[tuple[int, int], dict[str, SourceImage]] = defaultdict(dict)
    for number, (name, image_size) in enumerate(zip(originals, sizes, strict=True)):
        groups[image_size, number % len(style_sets)][name] = originals[name]
    return [
        _Job(
            settings.model_copy(update={"image_size": image_size}),
            group,
            StyleInputs(pixels_of(group), style_sets[turn], loaded_masks),
        )
        for (image_size, turn), group in groups.items()
    ]


def own_size(height: int, width: int) -> int:
    """Return the default shorter side of the output for an image of this size, in pixels."""
    factor = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    return max(MIN_SIZE, int(min(height, width) * factor))


def _numbers(listed: str) -> list[float]:
    """Return the numbers of a list, e.g. of ``2,1``."""
    try:
        return [float(part) for part in listed.split(",")] if listed else []
    except ValueError:
        raise AtelierError(f"--style-weights is {listed!r}, but it is a list, e.g. 2,1.") from None


def _merge_settings(
    settings: "Settings",
    preset: str,
    options: Mapping[str, Any],
    styles: int,
    masks: int,
    weights: list[float],
) -> "StylizeSettings":
    """Return checked settings: those of params.yaml or a preset, overridden by options.

    Args:
        settings: the settings of params.yaml.
        preset: name of a preset; empty for the values of params.yaml.
        options: values by setting; ``None`` for an option that is not used.
        styles: number of styles.
        masks: number of masks.
        weights: weight of each style; empty to use each style by itself.
    """
    from atelier.core.presets import preset_values
    from atelier.core.settings import check

    values = settings.model_dump()
    section = preset_values(preset, PRESETS)["stylize"] if preset else values["stylize"]
    section |= {key: value for key, value in options.items() if value is not None}
    # The lists of params.yaml name other files.
    section["styles"] = [f"style-{number}" for number in range(styles)]
    section["style_masks"] = [f"mask-{number}" for number in range(masks)]
    section["style_weights"] = weights
    # Masked and luminance-preserving optimization requires the box constraints.
    section["clamp_to_range"] |= masks > 0 or section["preserve_color"] == "luminance"
    # An interruption saves the latest intermediate image, so there should be many.
    count = max(section["save_intermediates"], _GIF_FRAMES, section["iterations"] // 10)
    section |= {"save_intermediates": min(count, 1000), "gif": False}
    return check({**values, "stylize": section}, "").stylize


def _targets(jobs: list[_Job], images: list[str], out: Path) -> dict[tuple[str, str], Path]:
    """Return the file of each output by (image, style)."""
    names = {name: job.originals[name[0]] for job in jobs for name in job.names()}
    if out.suffix and not out.is_dir():
        if len(names) > 1:
            raise AtelierError(f"--out is {out}, but {len(names)} stylized images need a folder.")
        return dict.fromkeys(names, out)
    suffixes = {Path(image).stem: Path(image).suffix for image in images}
    return {
        (image, style): out / f"{image}-{style}{_suffix(suffixes[image], original)}"
        for (image, style), original in names.items()
    }


def _suffix(suffix: str, original: "SourceImage") -> str:
    """Return the image's own suffix, or ``.png`` if that format cannot hold the output."""
    from atelier.data.color_managed import SUFFIXES

    fits = suffix.lower() in SUFFIXES and not (
        original.is_transparent() and suffix.lower() in (".jpg", ".jpeg")
    )
    return suffix if fits else ".png"


def _check_request(
    jobs: list[_Job],
    targets: Mapping[tuple[str, str], Path],
    device: "torch.device",
    gif: bool,
    force: bool,
) -> None:
    """Raise if any output cannot be computed or written, before the first is computed."""
    from atelier.data.color_managed import reject_target
    from atelier.style.batch import check_memory

    for job in jobs:
        for name in job.names():
            original = job.originals[name[0]]
            reject_target(targets[name], original, *job.shape(original))
    files = list(targets.values())
    if len(set(files)) < len(files):
        raise AtelierError("two outputs would have the same name; rename one of the images.")
    require_force(files + [file.with_suffix(".gif") for file in files] * gif, force)
    for file in files:
        folder = next(folder for folder in file.absolute().parents if folder.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise AtelierError(f"{file} cannot be written: no file can be created in {folder}.")
    for job in jobs:
        check_memory(job.inputs, job.settings, device)


def _print_estimate(jobs: list[_Job], vgg: "nn.Sequential") -> None:
    """Print the estimated duration, from a short measurement."""
    from atelier.style.estimate import estimate_seconds
    from atelier.style.vgg import device_of

    shapes = [job.shape(job.originals[name[0]]) for job in jobs for name in job.names()]
    seconds = estimate_seconds(jobs[0].settings, shapes, vgg)
    height, width = max(shapes, key=math.prod)
    number = "1 image" if len(shapes) == 1 else f"{len(shapes)} images"
    size = f"{width} x {height} pixels" if len(set(shapes)) == 1 else f"up to {width} x {height}"
    time = f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    typer.echo(f"{number} of {size}: about {time} on {device_of(vgg).type}.", err=True)


def _run(
    job: _Job,
    targets: Mapping[tuple[str, str], Path],
    vgg: "nn.Sequential",
    gif: bool,
    progress: bool,
) -> None:
    """Compute and write the outputs of a job; an interruption writes the latest intermediate."""
    from atelier.style.batch import stylize
    from atelier.style.checkpoint import Intermediates, StoringEvents
    from atelier.tracking.run_state import handled_signals

    intermediates, written = Intermediates(latest_only=not gif), 0
    before = {stop: signal.signal(stop, signal.default_int_handler) for stop in handled_signals()}
    try:
        with progress_bar("stylize", "iterations", progress) as report:
            events = StoringEvents(report, _warn, intermediates)
            for result in stylize(job.inputs, job.settings, vgg, events):
                # Written at once, so that a later error cannot lose it.
                target = targets[result.content_image, result.styles]
                _write(result.pixels, job.originals[result.content_image], target)
                written += 1
                if gif:
                    frames = intermediates.of_image(written - 1)
                    _write_gif(result, frames, target.with_suffix(".gif"))
                intermediates.discard(written - 1)
    except KeyboardInterrupt:
        for stop in before:  # a second signal must not interrupt the writing
            signal.signal(stop, signal.SIG_IGN)
        _write_intermediates(job, targets, intermediates, written)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        for stop, handler in before.items():
            signal.signal(stop, handler)


def _write(pixels: "Pixels", original: "SourceImage", target: Path, progress: str = "") -> None:
    from atelier.data.color_managed import save_stylized

    with write_output(target):
        save_stylized(pixels, original, target)
    height, width = original.pixels.shape[:2]
    size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
    if pixels.shape != original.pixels.shape:
        size += f", of {width} x {height}"
    _print_line(f"Wrote {target}: {progress}{size}.")


def _write_gif(
    result: "StylizedImage", intermediates: "Mapping[int, Pixels]", target: Path
) -> None:
    from atelier.figures.style_figures import save_gif

    frames = [result.content, *intermediates.values(), result.pixels]
    try:
        with write_output(target):
            save_gif(frames, target)
    except KeyboardInterrupt:
        _warn(f"{target} was not written, because it was interrupted")
        raise
    _print_line(f"Wrote {target}: {len(frames)} frames.")


def _write_intermediates(
    job: _Job,
    targets: Mapping[tuple[str, str], Path],
    intermediates: "Intermediates",
    written: int,
) -> None:
    """Write the latest intermediate of each output but the first ``written`` ones."""
    names, iterations = job.names(), job.settings.iterations
    for number, name in list(enumerate(names))[written:]:
        by_iteration = intermediates.of_image(number)
        if by_iteration:
            original, (iteration, pixels) = job.originals[name[0]], by_iteration.popitem()
            progress = f"{min(iteration, iterations)} of {iterations} iterations, "
            _write(pixels, original, targets[name], progress)
    typer.echo(
        "Interrupted; outputs that are not listed above have no intermediate image to save.",
        err=True,
    )


def _print_line(line: str) -> None:
    """Print a line above the progress bar, and flush it."""
    with suppress(BrokenPipeError):  # a closed pipe must not end the work
        tqdm.write(line)
        sys.stdout.flush()


def _warn(warning: str) -> None:
    tqdm.write(f"WARNING: {warning}", file=sys.stderr)
