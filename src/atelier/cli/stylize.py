"""The command that paints pictures of any folder: what is asked for, and where that goes."""

import math
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from atelier.cli.checkout import PARAMS, PRESETS, require_force, write_output
from atelier.core.errors import AtelierError
from atelier.core.progress import progress_bar


@contextmanager
def name_options(section: str, options: Mapping[str, str], file: str) -> Iterator[None]:
    """Name options where a sentence names settings, and the file of settings without an option.

    Args:
        section: of the settings.
        options: by the setting that each stands for.
        file: where the other settings are.
    """
    try:
        yield
    except AtelierError as error:
        raise AtelierError(_option_of(str(error), section, options, file)) from None


def _option_of(sentence: str, section: str, options: Mapping[str, str], file: str) -> str:
    from atelier.core.settings import Settings

    def option(found: re.Match[str]) -> str:
        named = options.get(found["name"])
        return f"{named}{found['part']}" if named else f"{found[0]} of {file}"

    told = sentence.removeprefix(f"atelier {section}: ")
    rule = told.removeprefix(f"{section}: ")
    if rule != told and told != sentence:
        # A rule between settings speaks of nothing else. A name of one word may be a common one.
        names = "|".join(name for name in options if "_" in name)
        return re.sub(rf"\b({names})\b", lambda found: options[found[0]], rule)
    # Elsewhere a sentence may name the user's files, which stay as they are.
    known = "|".join(getattr(Settings.model_fields[section].annotation, "model_fields", ()))
    name = rf"(?<![\w./\\-]){section}\.(?P<name>{known})(?P<part>(\.\d+)*)(?![\w/\\-]|\.\w)"
    return re.sub(name, option, told)


if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from atelier.core.settings import Settings, StylizeSettings
    from atelier.data.color_managed import SourceImage
    from atelier.style.batch import StylizedImage
    from atelier.style.checkpoint import Intermediates

    Pixels = NDArray[np.uint8]

STYLIZED = Path("painted")
WEIGHTS = Path("data/weights")
MAX_IMAGES = 2**20  # pixels of a painting where nobody says how large it is to be
MIN_SIZE = 32  # pixels of the shorter side, likewise
_FRAMES = 24  # of a film at least, and chances to save what is painted so far
_STYLE_SIDE = 1024  # pixels of a built-in style image that is drawn for a painting
_INTERRUPTED = 130
_OPTIONS = {
    "image_size": "--size",
    "pairing": "--pairing",
    "style_masks": "--mask",
    "style_weights": "--mix",
    "style_strength": "--strength",
    "preserve_color": "--keep-colors",
    "iterations": "--iterations",
    "weights": "--weights",
}
_PRESET = "photo"
Weights = Annotated[
    str | None, typer.Option(help="vgg19_caffe, imagenet, random or a file", metavar="VGG19")
]
Preset = Annotated[
    str | None, typer.Option(help="the preset whose values are used", show_default=_PRESET)
]
Params = Annotated[bool, typer.Option("--params", help="use params.yaml's values, not a preset's")]


def stylize(
    pictures: Annotated[list[str], typer.Argument(help="pictures to paint", metavar="PICTURE...")],
    style: Annotated[
        list[str],
        typer.Option(
            help="style images; or night_sky, wave, stained_glass (built in)", metavar="STYLE..."
        ),
    ],
    size: Annotated[
        int, typer.Option(help="pixels, the shorter side", show_default="its own, at most 512")
    ] = 0,
    out: Annotated[
        Path, typer.Option(help="a folder, or of one painting a file", show_default="painted/")
    ] = STYLIZED,
    mask: Annotated[
        list[str] | None,
        typer.Option(help="one for each style: white where it goes", metavar="MASK..."),
    ] = None,
    mix: Annotated[
        str, typer.Option(help="2,1: all styles in each painting, so much of each")
    ] = "",
    pairing: Annotated[
        str, typer.Option(help="all: every style for each; each: they take turns", metavar="HOW")
    ] = "all",
    strength: Annotated[float | None, typer.Option(help="from 0, as it was, to 1")] = None,
    keep_colors: Annotated[
        str | None, typer.Option(help="none, luminance or histogram", metavar="HOW")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="steps; more are slower, and paint more")
    ] = None,
    weights: Weights = None,
    preset: Preset = None,
    params: Params = False,
    film: Annotated[bool, typer.Option("--film", help="a GIF of each painting's way")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace what is there")] = False,
) -> None:
    """Paint pictures, named first, in the style of others."""
    from atelier.core.device import choose_device
    from atelier.core.settings import load

    preset, settings = _choose_preset(preset, params), load(PARAMS)
    given = {
        "style_strength": strength,
        "preserve_color": keep_colors,
        "iterations": iterations,
        "weights": weights and Path(weights).name,
        "image_size": size or None,
        "pairing": pairing,
    }
    with name_options("stylize", _OPTIONS, f"{PRESETS / preset}.yaml" if preset else str(PARAMS)):
        wanted = _merge_settings(
            settings, preset, given, len(style), len(mask or []), _numbers(mix)
        )
        jobs = _jobs(wanted, (pictures, style, mask or []), settings.convert.max_megapixels, size)
        targets = _targets(jobs, pictures, out)
        folder = Path(weights).parent if weights else WEIGHTS
        device = choose_device(settings.runtime.device)
        _check_request(jobs, targets, device, film, force)
        _print_estimate(jobs, folder, device)
        for job in jobs:
            _paint(job, targets, folder, device, film, settings.runtime.progress)


def _choose_preset(preset: str | None, params: bool) -> str:
    """Return the preset to use; empty for the values of params.yaml."""
    if params and preset:
        raise AtelierError("--preset and --params exclude each other; give one of them.")
    return "" if params else preset or _PRESET


@dataclass(frozen=True)
class _Job:
    """Pictures that are painted at one size, and how."""

    settings: "StylizeSettings"
    originals: "dict[str, SourceImage]"
    styles: "dict[str, Pixels]"
    masks: "list[Pixels]"

    def given(
        self,
    ) -> "tuple[StylizeSettings, dict[str, Pixels], dict[str, Pixels], list[Pixels]]":
        """What is painted in which styles, and how."""
        from atelier.data.color_managed import pixels_of

        return self.settings, pixels_of(self.originals), self.styles, self.masks

    def names(self) -> list[tuple[str, str]]:
        """Of each painting what is painted and in which style, in order."""
        from atelier.style.batch import output_names

        return output_names(*self.given())

    def shape(self, original: "SourceImage") -> tuple[int, int]:
        """Height and width of a picture's painting."""
        from atelier.style.image_ops import scaled_shape

        return scaled_shape(original.pixels.shape, self.settings.image_size)


def _jobs(
    wanted: "StylizeSettings", named: tuple[list[str], ...], max_megapixels: int, size: int
) -> list[_Job]:
    """Read the named pictures, styles and masks; gather the pictures by the size of their painting.

    Args:
        wanted: the settings of all.
        named: files of pictures, of styles and of masks.
        max_megapixels: a larger picture is refused.
        size: pixels of every painting's shorter side; 0 for its own.
    """
    from atelier.data.color_managed import load_by_name, mask_of, pixels_of
    from atelier.style.demo_styles import demo_style_sources

    made = demo_style_sources(_STYLE_SIDE, wanted.seed)
    originals, styles, masks = (
        load_by_name(names, Path(), max_megapixels, words)
        for names, words in zip(named, ({}, made, {}), strict=True)
    )
    groups: defaultdict[tuple[int, int], dict[str, SourceImage]] = defaultdict(dict)
    sides = [
        size or min(own_size(*original.pixels.shape[:2]), wanted.image_size)
        for original in originals.values()
    ]
    looks = [pixels_of(styles)]
    if wanted.pairing == "cycle" and len(set(sides)) > 1:
        # They take turns among all pictures, not among those of a size.
        looks = [{name: pixels} for name, pixels in looks[0].items()]
    for number, (name, side) in enumerate(zip(originals, sides, strict=True)):
        groups[side, number % len(looks)][name] = originals[name]
    return [
        _Job(wanted.model_copy(update={"image_size": side}), some, looks[turn], mask_of(masks))
        for (side, turn), some in groups.items()
    ]


def own_size(height: int, width: int) -> int:
    """The shorter side of a painting whose picture has this size, where nobody asks for another."""
    factor = min(1.0, math.sqrt(MAX_IMAGES / (height * width)))
    return max(MIN_SIZE, int(min(height, width) * factor))


def _numbers(listed: str) -> list[float]:
    """The numbers of a list such as 2,1."""
    try:
        return [float(part) for part in listed.split(",")] if listed else []
    except ValueError:
        raise AtelierError(f"--mix is {listed!r}, but it is a list such as 2,1.") from None


def _merge_settings(
    settings: "Settings",
    preset: str,
    given: Mapping[str, Any],
    styles: int,
    masks: int,
    mix: list[float],
) -> "StylizeSettings":
    """The settings of params.yaml or a preset with what was given instead, checked as those are."""
    from atelier.core.presets import preset_values
    from atelier.core.settings import check

    values = settings.model_dump()
    section = preset_values(preset, PRESETS)["stylize"] if preset else values["stylize"]
    section |= {key: value for key, value in given.items() if value is not None}
    # These are of the files that params.yaml names.
    section["styles"] = [f"style-{number}" for number in range(styles)]
    section["style_masks"] = [f"mask-{number}" for number in range(masks)]
    section["style_weights"] = mix
    # Only within bounds a place can stay as it is, which the chapter's canvas knows nothing of.
    section["clamp_to_range"] |= masks > 0 or section["preserve_color"] == "luminance"
    # An interrupted painting is saved as it was last seen, so that it is looked at often.
    often = max(section["save_intermediates"], _FRAMES, section["iterations"] // 10)
    section |= {"save_intermediates": min(often, 1000), "gif": False}
    return check({**values, "stylize": section}, "atelier stylize").stylize


def _targets(jobs: list[_Job], pictures: list[str], out: Path) -> dict[tuple[str, str], Path]:
    """The file of every painting."""
    names = {name: job.originals[name[0]] for job in jobs for name in job.names()}
    if out.suffix and not out.is_dir():
        if len(names) > 1:
            raise AtelierError(f"--out is {out}, but {len(names)} paintings need a folder.")
        return dict.fromkeys(names, out)
    endings = {Path(picture).stem: Path(picture).suffix for picture in pictures}
    return {
        (picture, look): out / f"{picture}-{look}{_suffix(endings[picture], original)}"
        for (picture, look), original in names.items()
    }


def _suffix(given: str, original: "SourceImage") -> str:
    """The picture's own ending, or that of a format which can hold its painting."""
    from atelier.data.color_managed import SUFFIXES

    fits = given.lower() in SUFFIXES and not (
        original.transparent and given.lower() in (".jpg", ".jpeg")
    )
    return given if fits else ".png"


def _check_request(
    jobs: list[_Job],
    targets: Mapping[tuple[str, str], Path],
    device: "torch.device",
    film: bool,
    force: bool,
) -> None:
    """See that everything can be painted and written, before hours of work and not after."""
    from atelier.data.color_managed import reject_target
    from atelier.style.batch import check_memory

    for job in jobs:
        for name in job.names():
            original = job.originals[name[0]]
            reject_target(targets[name], original, *job.shape(original))
    files = list(targets.values())
    if len(set(files)) < len(files):
        raise AtelierError("two paintings would have the same name; rename one of the pictures.")
    require_force(files + [file.with_suffix(".gif") for file in files] * film, force)
    for file in files:
        there = next(folder for folder in file.absolute().parents if folder.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise AtelierError(f"{file} cannot be written: {there} takes no files.")
    for job in jobs:
        check_memory(*job.given(), device)


def _print_estimate(jobs: list[_Job], weights: Path, device: "torch.device") -> None:
    """Print how long painting will take, as far as a short measurement can tell."""
    from atelier.style.estimate import estimate_seconds

    shapes = [job.shape(job.originals[name[0]]) for job in jobs for name in job.names()]
    seconds = estimate_seconds(jobs[0].settings, shapes, weights, device)
    height, width = max(shapes, key=math.prod)
    number = "1 painting" if len(shapes) == 1 else f"{len(shapes)} paintings"
    size = f"{width} x {height} pixels" if len(set(shapes)) == 1 else f"up to {width} x {height}"
    time = f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    typer.echo(f"{number} of {size}: about {time} on {device.type}.", err=True)


def _paint(
    job: _Job,
    targets: Mapping[tuple[str, str], Path],
    weights: Path,
    device: "torch.device",
    film: bool,
    shown: bool,
) -> None:
    """Paint and write; what is interrupted is written as far as it is painted."""
    from atelier.style.batch import stylize
    from atelier.style.checkpoint import Intermediates
    from atelier.tracking.run_state import handled_signals

    seen, written = Intermediates(latest_only=not film), 0
    before = {end: signal.signal(end, signal.default_int_handler) for end in handled_signals()}
    try:
        with progress_bar("stylize", "iterations", shown) as report:
            given = (*job.given(), weights, device, report, None, seen.note, _warn)
            for painting in stylize(*given):
                # As soon as it is finished, so that nothing that follows can lose it.
                target = targets[painting.content_image, painting.styles]
                _write(painting.pixels, job.originals[painting.content_image], target)
                written += 1
                if film:
                    _write_gif(painting, seen.of(written - 1), target.with_suffix(".gif"))
                seen.forget(written - 1)
    except KeyboardInterrupt:
        for end in before:  # a second one should not keep it from writing
            signal.signal(end, signal.SIG_IGN)
        _write_so_far(job, targets, seen, written)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)


def _write(pixels: "Pixels", original: "SourceImage", target: Path, told: str = "") -> None:
    from atelier.data.color_managed import save_stylized

    with write_output(target):
        save_stylized(pixels, original, target)
    height, width = original.pixels.shape[:2]
    size = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
    if pixels.shape != original.pixels.shape:
        size += f", of {width} x {height}"
    _report(f"Wrote {target}: {told}{size}.")


def _write_gif(painting: "StylizedImage", way: "Mapping[int, Pixels]", target: Path) -> None:
    from atelier.figures.style_figures import save_gif

    frames = [painting.content, *way.values(), painting.pixels]
    try:
        with write_output(target):
            save_gif(frames, target)
    except KeyboardInterrupt:
        _warn(f"{target} was not written, because it was interrupted")
        raise
    _report(f"Wrote {target}: its way, {len(frames)} frames.")


def _write_so_far(
    job: _Job, targets: Mapping[tuple[str, str], Path], seen: "Intermediates", written: int
) -> None:
    """Write what is unfinished as it was last seen; the first so many are written already."""
    names, whole = job.names(), job.settings.iterations
    for number, name in list(enumerate(names))[written:]:
        way = seen.of(number)
        if way:
            original, (iteration, pixels) = job.originals[name[0]], way.popitem()
            told = f"{min(iteration, whole)} of {whole} iterations, "
            _write(pixels, original, targets[name], told)
    told = "Interrupted; what is not listed above was not begun, or not far enough to save."
    typer.echo(told, err=True)


def _report(sentence: str) -> None:
    """Print a line above the bar, at once also where nobody sees it but a pipe or a file."""
    with suppress(BrokenPipeError):  # whoever read has gone, which should not end the painting
        tqdm.write(sentence)
        sys.stdout.flush()


def _warn(trouble: str) -> None:
    tqdm.write(f"WARNING: {trouble}", file=sys.stderr)
