"""Painting: a picture is changed until VGG19 sees one's content and another's style in it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError
from atelier.settings import StylizeSettings
from atelier.style.objective import Maps, at_precision, names, objective, targets, weighted
from atelier.style.optimise import Evaluate
from atelier.style.painters import Painter, painter
from atelier.style.vgg import calibrate, preprocess

# Losses stay on the device and are fetched in blocks, because each fetch makes the host wait.
_EVALUATIONS_PER_FETCH = 10
# Between two parts a picture can be kept and painted on; each costs torch's L-BFGS one evaluation.
_EVALUATIONS_A_PART = 25
# One picture of 512 x 512, or 16 of 128 x 128: what a pass of VGG19 holds takes 1 GB.
_PIXELS_AT_ONCE = 2**18


@dataclass(frozen=True)
class Iterate:
    """The losses of one evaluation.

    Attributes:
        picture: which of the contents, from 0.
        iteration: evaluations of this picture so far, from 1.
        total: the weighted sum that is minimised.
        per_layer: the terms of the sum before weighting, by name: ``style_1``, ``content_11``.
    """

    picture: int
    iteration: int
    total: float
    per_layer: dict[str, float]


def paint(
    contents: Sequence[Tensor],
    style: Tensor,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_iteration: Callable[[Iterate], None],
    saver: "Saver | None" = None,
    at_once: int | None = None,
) -> list[Tensor]:
    """Paint each of ``contents`` in the style of ``style``.

    Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks"
    (CVPR). Torch's optimizers paint one picture after another, because they would see a batch as
    one long vector. With ``spectral`` neighbours of one size may share VGG19's passes: each keeps
    its own steps, but sums of a batch may be rounded otherwise than those of one picture.

    Args:
        contents: each float32 ``[1, 3, H, W]``, RGB, 0 to 1, of any size.
        style: float32 ``[1, 3, h, w]``, RGB, 0 to 1, of any size.
        settings: what to match, and how to optimise.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, deep enough for the settings' layers.
            It is moved to ``device``; random weights are calibrated on the style in a copy.
        device: where to paint.
        on_iteration: called for every evaluation in order, in bursts. An evaluation counts as an
            iteration. Torch's L-BFGS may make one more than ``settings.iterations``, and every
            L-BFGS may end before, when no step makes the picture better.
        saver: keeps what a picture needs to be painted on, and brings back what an earlier
            attempt left; evaluations of that attempt are told again. Pictures that are painted
            together are kept together, under the number of the first.
        at_once: so many pictures may share a pass. By default one on a CPU, where more gain
            nothing, and elsewhere as many as have 512 x 512 pixels together.

    Returns:
        For each content a painting of its size, float32 ``[1, 3, H, W]`` on the CPU, RGB, 0 to 1.

    Raises:
        AtelierError: the loss is no longer finite.
    """
    vgg, style = vgg.to(device), style.to(device)
    if settings.weights == "random":
        vgg = calibrate(vgg, preprocess(style, settings.preprocessing))
    vgg = at_precision(vgg, settings, device)
    paintings: list[Tensor] = []
    for batch in _batches(contents, settings, device, at_once):
        journal = _Journal(len(paintings), names(settings), on_iteration)
        painted = _paint_batch(batch.to(device), style, settings, vgg, journal, saver or Saver())
        paintings += painted.cpu().split(1)
    return paintings


def _batches(
    contents: Sequence[Tensor],
    settings: StylizeSettings,
    device: torch.device,
    at_once: int | None,
) -> Iterator[Tensor]:
    """Pictures that are painted together, ``[B, 3, H, W]``: neighbours of one size."""
    for (height, width), group in groupby(contents, lambda content: content.shape[2:]):
        fit = 1 if device.type == "cpu" else max(1, _PIXELS_AT_ONCE // (height * width))
        most = (at_once or fit) if settings.optimizer == "spectral" else 1
        yield from torch.cat(list(group)).split(most)


def _paint_batch(
    contents: Tensor,
    style: Tensor,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    journal: "_Journal",
    saver: "Saver",
) -> Tensor:
    grams, maps = targets(contents, style, settings, vgg)
    canvas = _first_canvas(contents, settings)
    state = saver.load(journal.picture)
    legs = list(enumerate(_legs(settings)))
    if state is not None:
        canvas = state.pop("canvas").to(contents.device)
        journal.replay(state.pop("losses"))
        legs = legs[int(state.pop("leg")) :]
    for number, leg in legs:
        evaluate = _evaluation(grams, maps, leg.firmness, settings, vgg, journal)
        at_work = painter(canvas, evaluate, settings)
        stuck = False
        if state is not None:
            stuck = bool(state.pop("stuck"))
            at_work.restore(state)
            state = None
        while journal.told < leg.until and not stuck:
            stuck = _advance(at_work, leg.until, journal)
            told = {"canvas": at_work.canvas, "losses": journal.table()}
            marks = {"leg": torch.tensor(number), "stuck": torch.tensor(stuck)}
            saver.save(journal.picture, journal.told, marks | told | at_work.state())
        canvas = at_work.canvas
    return canvas.clamp(0, 1)


def _advance(at_work: Painter, until: int, journal: "_Journal") -> bool:
    """Paint a part; tell whether no step made the picture better: L-BFGS leaves it as it is."""
    before = at_work.canvas.clone()
    at_work.advance(min(_EVALUATIONS_A_PART, until - journal.told))
    journal.deliver()
    return torch.equal(at_work.canvas, before)


class _Leg(NamedTuple):
    """A part of the way.

    How many times its weight the content has, so that it is not lost in the first, far steps and
    found again in many short ones; and after how many evaluations the leg ends.
    """

    firmness: float
    until: int


def _legs(settings: StylizeSettings) -> list[_Leg]:
    whole = settings.iterations
    # Random features show no content that could be lost: measured, it only costs them time.
    held = settings.start == "content" and settings.weights != "random"
    if settings.optimizer != "spectral" or not held:
        return [_Leg(1.0, whole)]
    return [_Leg(10.0, whole // 20), _Leg(3.0, 3 * whole // 20), _Leg(1.0, whole)]


def _evaluation(
    grams: Maps,
    maps: Maps,
    firmness: float,
    settings: StylizeSettings,
    vgg: nn.Sequential,
    journal: "_Journal",
) -> Evaluate:
    firm = {layer: firmness * weight for layer, weight in settings.content_layers.items()}
    sought = settings.model_copy(update={"content_layers": firm})

    def evaluate(canvas: Tensor) -> tuple[Tensor, Tensor]:
        """The losses [B] of pictures, and their gradients; the journal is told."""
        leaf = canvas.detach().requires_grad_()
        with torch.enable_grad():
            totals, losses = objective(leaf, grams, maps, sought, vgg)
            (gradient,) = torch.autograd.grad(totals.sum(), leaf)
        journal.note(weighted(losses, settings), losses)
        return totals.detach(), gradient.contiguous()

    return evaluate


def _first_canvas(contents: Tensor, settings: StylizeSettings) -> Tensor:
    if settings.start == "content":
        return contents.clone()
    # Drawn on the CPU, so that a seed means the same noise on every device, and anew for every
    # picture, so that a picture does not depend on those before it.
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.rand(contents[:1].shape, generator=generator, dtype=contents.dtype)
    return noise.to(contents.device).expand_as(contents).contiguous()


class Saver:
    """Keeps nothing; see :class:`atelier.style.resume.Attempts` for one that does."""

    def load(self, picture: int) -> dict[str, Tensor] | None:
        """What an earlier attempt left of a picture."""
        return None

    def save(self, picture: int, evaluations: int, state: dict[str, Tensor]) -> None:
        """Keep a picture's state after so many evaluations."""


class _Journal:
    """Collects a batch's losses on the device and delivers them in bursts."""

    def __init__(
        self, picture: int, names: list[str], on_iteration: Callable[[Iterate], None]
    ) -> None:
        self.picture = picture
        self._names = names
        self._on_iteration = on_iteration
        self._waiting: list[Tensor] = []
        self._rows: list[list[list[float]]] = []

    @property
    def told(self) -> int:
        """Evaluations delivered so far."""
        return len(self._rows)

    def note(self, totals: Tensor, losses: dict[str, Tensor]) -> None:
        """Take the losses of one evaluation, ``[B]`` each."""
        self._waiting.append(torch.stack([totals, *losses.values()], dim=1).detach())
        if len(self._waiting) == _EVALUATIONS_PER_FETCH:
            self.deliver()

    def deliver(self) -> None:
        """Fetch what waits on the device, and tell it."""
        if self._waiting:
            self._tell(torch.stack(self._waiting).tolist())
            self._waiting.clear()

    def table(self) -> Tensor:
        """All losses so far, float64 [evaluations, B, 1 + terms]: what float32 was, to the bit."""
        return torch.tensor(self._rows, dtype=torch.float64)

    def replay(self, table: Tensor) -> None:
        """Tell what an earlier attempt evaluated."""
        self._tell(table.tolist())

    def _tell(self, evaluations: list[list[list[float]]]) -> None:
        for rows in evaluations:
            self._rows.append(rows)
            for picture, (total, *losses) in enumerate(rows, start=self.picture):
                if not math.isfinite(total):
                    raise AtelierError(
                        f"the loss of picture {picture + 1} is {total} at iteration"
                        f" {self.told}; lower stylize.lr, or set stylize.optimizer to adam with"
                        " an lr of 0.02."
                    )
                per_layer = dict(zip(self._names, losses, strict=True))
                self._on_iteration(Iterate(picture, self.told, total, per_layer))
