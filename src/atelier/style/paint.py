"""Painting: a picture is changed until VGG19 sees one's content and another's style in it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError
from atelier.settings import StylizeSettings
from atelier.style.journal import Glimpse, Iterate, Journal, Saver
from atelier.style.look import Look
from atelier.style.objective import at_precision, names
from atelier.style.room import side_to_calibrate
from atelier.style.scales import shrunk
from atelier.style.scene import Subject
from atelier.style.vgg import calibrate, preprocess, stride
from atelier.style.work import Work

__all__ = ["Glimpse", "Iterate", "Saver", "deepest", "paint"]

# One picture of 512 x 512, or 16 of 128 x 128: what a pass of VGG19 holds takes 1 GB.
_PIXELS_AT_ONCE = 2**18


def paint(
    contents: Sequence[Tensor],
    styles: Tensor | Sequence[Look],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_iteration: Callable[[Iterate], None],
    saver: Saver | None = None,
    at_once: int | None = None,
    watch: Callable[[Glimpse], None] | None = None,
    say: Callable[[str], None] = lambda trouble: None,
    called: Sequence[str] = (),
) -> Iterator[Tensor]:
    """Paint each of ``contents`` as its look says, and yield it as soon as it is finished.

    Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks"
    (CVPR). Torch's optimizers paint one picture after another, because they would see a batch as
    one long vector. With ``spectral`` neighbours of one size may share VGG19's passes: each keeps
    its own steps, but sums of a batch may be rounded otherwise than those of one picture.

    Args:
        contents: each float32 ``[1, 3, H, W]``, RGB, 0 to 1, of any size.
        styles: one style for all, float32 ``[1, 3, h, w]``, RGB, 0 to 1, or a look for each.
        settings: what to match, and how to optimise.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, deep enough for the settings' layers.
            It is moved to ``device``; random weights are calibrated on all styles in a copy.
        device: where to paint.
        on_iteration: called for every evaluation in order, in bursts. An evaluation counts as an
            iteration. Torch's L-BFGS may make one more than ``settings.iterations``, and every
            L-BFGS may end before, when no step makes the picture better. One whose loss is not
            finite is counted, but not told.
        saver: keeps what a picture needs to be painted on, and brings back what an earlier
            attempt left; evaluations of that attempt are told again. Pictures that are painted
            together are kept together, under the number of the first.
        at_once: so many pictures may share a pass. By default one on a CPU, where more gain
            nothing, and elsewhere as many as have 512 x 512 pixels together.
        watch: shown every picture now and then, more often if ``settings.intermediates`` asks.
        say: told in a sentence where something went wrong that painting could mend.
        called: what each picture is called in sentences; picture 1 and so on if not given.

    Yields:
        For each content a painting of its size, float32 ``[1, 3, H, W]`` on the CPU, RGB, 0 to 1.

    Raises:
        AtelierError: the loss stays not finite, a picture is too small for the layers, a mask is
            empty, or the memory is too small; the sentence says what would do.
    """
    looks = [Look((styles,))] if isinstance(styles, Tensor) else list(styles)
    vgg = vgg[: deepest(settings) + 1].to(device)
    _refuse_what_cannot_be_seen(contents, looks, vgg)
    vgg = at_precision(_calibrated(vgg, looks, settings, device), settings, device)
    finished = 0
    for subject in _subjects(contents, looks, settings, device, at_once):
        numbers = range(finished, finished + len(subject.contents))
        titles = [called[number] if called else f"picture {number + 1}" for number in numbers]
        journal = Journal(finished, titles, names(settings), on_iteration)
        work = Work(settings, vgg, journal, saver or Saver(), watch, say)
        yield from work.paint(subject).cpu().split(1)
        finished += len(subject.contents)


def _calibrated(
    vgg: nn.Sequential, looks: Sequence[Look], settings: StylizeSettings, device: torch.device
) -> nn.Sequential:
    """Fit random weights to all styles; learned ones stay as they are."""
    if settings.weights != "random":
        return vgg
    distinct = {id(style): style for look in looks for style in look.styles}.values()
    side = side_to_calibrate(settings, len(distinct))
    small = [_at_most(style.to(device), side, stride(vgg)) for style in distinct]
    return calibrate(vgg, *(preprocess(style, settings.pixel_convention()) for style in small))


def _at_most(style: Tensor, side: int, least: int) -> Tensor:
    """A style, smaller where its longer side is longer than ``side``."""
    return shrunk(style, min(1.0, side / max(style.shape[2:])), least)


def deepest(settings: StylizeSettings) -> int:
    """The last layer that the losses see."""
    return max([*settings.style_layers, *settings.content_layers])


def _subjects(
    contents: Sequence[Tensor],
    looks: Sequence[Look],
    settings: StylizeSettings,
    device: torch.device,
    at_once: int | None,
) -> Iterator[Subject]:
    """Pictures that are painted together: neighbours of one size, with equally many masks."""
    same = len(looks) == 1
    pairs = [(one, looks[0 if same else number]) for number, one in enumerate(contents)]
    for (height, width, _), group in groupby(pairs, lambda p: (*p[0].shape[2:], len(p[1].masks))):
        fit = 1 if device.type == "cpu" else max(1, _PIXELS_AT_ONCE // (height * width))
        most = (at_once or fit) if settings.optimizer == "spectral" else 1
        waiting = list(group)
        for begin in range(0, len(waiting), most):
            together = waiting[begin : begin + most]
            batch = torch.cat([content for content, _ in together]).to(device)
            moved = tuple(_moved(look, device) for _, look in together)
            yield Subject(batch, moved[:1] if same else moved)


def _moved(look: Look, device: torch.device) -> Look:
    styles = tuple(style.to(device) for style in look.styles)
    return replace(look, styles=styles, masks=tuple(mask.to(device) for mask in look.masks))


def _refuse_what_cannot_be_seen(
    contents: Sequence[Tensor], looks: Sequence[Look], vgg: nn.Sequential
) -> None:
    """Refuse a picture of which the deepest layer would see nothing, and a mask of nothing."""
    least = stride(vgg)
    pictures = [("content", content) for content in contents]
    pictures += [("style", style) for look in looks for style in look.styles]
    for what, picture in pictures:
        height, width = picture.shape[2:]
        if min(height, width) < least:
            raise AtelierError(
                f"the {what} of {width} x {height} pixels is too small for layer {len(vgg) - 1} of"
                f" VGG19, which needs {least} pixels each way; raise stylize.picture_size, or"
                " choose layers less deep."
            )
    if any(not bool((mask > 0).any()) for look in looks for mask in look.masks):
        raise AtelierError(
            "one of stylize.style_masks is black all over, so that its style has no place; make"
            " it white where the style belongs."
        )
