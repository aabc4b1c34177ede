"""Painting: a picture is changed until VGG19 sees one's content and another's style in it."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from atelier.errors import AtelierError, lacks_memory
from atelier.settings import StylizeSettings
from atelier.style.look import Look
from atelier.style.objective import at_precision, names, weighted
from atelier.style.optimise import Evaluate
from atelier.style.painters import Painter, painter
from atelier.style.room import largest_that_works, side_that_fits
from atelier.style.scales import Leg, legs
from atelier.style.scene import Scene, Subject
from atelier.style.vgg import calibrate, preprocess, stride

# Losses stay on the device and are fetched in blocks, because each fetch makes the host wait.
_EVALUATIONS_PER_FETCH = 10
# Between two parts a picture can be kept and painted on; each costs torch's L-BFGS one evaluation.
_EVALUATIONS_A_PART = 25
# One picture of 512 x 512, or 16 of 128 x 128: what a pass of VGG19 holds takes 1 GB.
_PIXELS_AT_ONCE = 2**18
# Each time that a loss is not finite steps become a tenth as long, so often at most.
_MOST_CAUTION = 6


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


@dataclass(frozen=True)
class Glimpse:
    """A picture while it is painted, as it would be saved now.

    Attributes:
        picture: which of the contents, from 0.
        iteration: evaluations so far.
        pixels: float32 ``[1, 3, h, w]``, RGB, 0 to 1; smaller than the painting at coarse scales.
    """

    picture: int
    iteration: int
    pixels: Tensor


def paint(
    contents: Sequence[Tensor],
    styles: Tensor | Sequence[Look],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_iteration: Callable[[Iterate], None],
    saver: "Saver | None" = None,
    at_once: int | None = None,
    watch: Callable[[Glimpse], None] | None = None,
    say: Callable[[str], None] = lambda trouble: None,
) -> list[Tensor]:
    """Paint each of ``contents`` as its look says.

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

    Returns:
        For each content a painting of its size, float32 ``[1, 3, H, W]`` on the CPU, RGB, 0 to 1.

    Raises:
        AtelierError: the loss stays not finite, a picture is too small for the layers, a mask is
            empty, or the memory is too small; the sentence says what would do.
    """
    looks = [Look((styles,))] if isinstance(styles, Tensor) else list(styles)
    vgg = vgg[: deepest(settings) + 1].to(device)
    _refuse_what_cannot_be_seen(contents, looks, vgg)
    if settings.weights == "random":
        distinct = {id(style): style for look in looks for style in look.styles}.values()
        seen = [preprocess(style.to(device), settings.preprocessing) for style in distinct]
        vgg = calibrate(vgg, *seen)
    vgg = at_precision(vgg, settings, device)
    paintings: list[Tensor] = []
    for subject in _subjects(contents, looks, settings, device, at_once):
        journal = _Journal(len(paintings), names(settings), on_iteration)
        work = _Work(settings, vgg, journal, saver or Saver(), watch, say)
        paintings += work.paint(subject).cpu().split(1)
    return paintings


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


class _Work:
    """Painting one subject: the legs of its way, with what goes wrong on them."""

    def __init__(
        self,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        journal: "_Journal",
        saver: "Saver",
        watch: Callable[[Glimpse], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._vgg, self._journal = settings, vgg, journal
        self._saver, self._watch, self._say = saver, watch, say

    def paint(self, subject: Subject) -> Tensor:
        """Return paintings ``[B, 3, H, W]``, or say which size the memory would hold."""
        try:
            return self._paint(subject)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
        raise AtelierError(self._what_would_fit(subject))

    def _paint(self, subject: Subject) -> Tensor:
        height, width = subject.contents.shape[2:]
        side = side_that_fits(height, width, self._settings, self._vgg)
        if self._settings.strength == 0:
            scene = Scene(subject, self._settings, self._vgg, side)
            self._evaluation(scene, 1.0)(scene.contents)
            self._journal.deliver()
            return subject.contents
        way = list(enumerate(legs(self._settings, height, width)))
        state = self._saver.load(self._journal.picture)
        if state is not None:
            self._journal.replay(state.pop("losses"))
            way = way[int(state.pop("leg")) :]
        scene = self._scene(subject, way[0][1], side)
        canvas = scene.first_canvas()
        for number, leg in way:
            if scene.contents.shape[2:] != (leg.height, leg.width):
                before, scene = scene, self._scene(subject, leg, side)
                canvas = scene.carried(canvas, before.contents)
            canvas = self._walk(number, leg, scene, canvas, state)
            state = None
        return scene.finished(canvas)

    def _scene(self, subject: Subject, leg: Leg, side: int | None) -> Scene:
        return Scene(subject.at(leg.height, leg.width), self._settings, self._vgg, side)

    def _walk(
        self,
        number: int,
        leg: Leg,
        scene: Scene,
        canvas: Tensor,
        state: dict[str, Tensor] | None,
    ) -> Tensor:
        """Paint one leg, from its begin or from where an earlier attempt left it."""
        evaluate, caution, stuck = self._evaluation(scene, leg.firmness), 0, False
        if state is not None:
            canvas = state.pop("canvas").to(scene.contents.device)
            caution, stuck = int(state.pop("caution")), bool(state.pop("stuck"))
        at_work = painter(canvas, evaluate, self._settings, scene.bounds, caution)
        if state is not None:
            at_work.restore(state)
        while self._journal.told < leg.until and not stuck:
            before, told = at_work.canvas.clone(), self._journal.told
            self._advance(at_work, min(told + _EVALUATIONS_A_PART, leg.until), scene)
            lost, stood = self._journal.was_lost(told), torch.equal(at_work.canvas, before)
            if lost or stood:
                stuck = stood and caution > 0
                self._complain(lost, caution)
                caution += 1
                at_work = painter(before, evaluate, self._settings, scene.bounds, caution)
            self._keep(number, at_work, caution, stuck)
        return at_work.canvas

    def _advance(self, at_work: Painter, until: int, scene: Scene) -> None:
        """Paint a part, and show it at its end and wherever an intermediate is due."""
        journal = self._journal
        while journal.told < until:
            at_work.advance(min(until - journal.told, self._until_next(journal.told)))
            journal.deliver()
            if self._watch:
                shown = scene.finished(at_work.canvas).cpu().split(1)
                for picture, pixels in enumerate(shown, start=journal.picture):
                    self._watch(Glimpse(picture, journal.told, pixels))

    def _until_next(self, told: int) -> int:
        """Evaluations until the next intermediate is due."""
        wanted = self._settings.intermediates
        # Torch's L-BFGS would pay for every halt: it is looked at where it halts anyway.
        if not wanted or self._settings.optimizer == "lbfgs":
            return _EVALUATIONS_A_PART
        every = max(1, self._settings.iterations // wanted)
        return every - told % every

    def _complain(self, lost: bool, caution: int) -> None:
        """Say what is wrong and that smaller steps follow, or give up where they did not help."""
        if lost and (caution == _MOST_CAUTION or not self._journal.was_finite()):
            raise AtelierError(
                f"{self._journal.trouble()}; lower stylize.lr, or set stylize.optimizer to adam"
                " with an lr of 0.02."
            )
        if lost or caution == 0:
            self._say(
                f"picture {self._journal.picture + 1}"
                f" {'has a loss that is not finite' if lost else 'stands still'} at iteration"
                f" {self._journal.told}; it goes on from its last good state with steps that begin"
                " a tenth as long"
            )

    def _keep(self, number: int, at_work: Painter, caution: int, stuck: bool) -> None:
        """Keep all that the next part depends on."""
        journal = self._journal
        marks = {"leg": number, "caution": caution, "stuck": stuck}
        told = {"canvas": at_work.canvas, "losses": journal.table()}
        state = {name: torch.tensor(mark) for name, mark in marks.items()} | told
        # A painter's tensors may be one and the same, which safetensors would not keep.
        own = {name: value.clone() for name, value in (state | at_work.state()).items()}
        self._saver.save(journal.picture, journal.told, own)

    def _evaluation(self, scene: Scene, firmness: float) -> Evaluate:
        contents = self._settings.content_layers.items()
        firm = {layer: firmness * weight for layer, weight in contents}
        sought = self._settings.model_copy(update={"content_layers": firm})

        def evaluate(canvas: Tensor) -> tuple[Tensor, Tensor]:
            """The losses [B] of pictures, and their gradients; the journal is told."""
            totals, losses, gradient = scene.eye.gradient(canvas, scene.goal, sought)
            self._journal.note(weighted(losses, self._settings), losses)
            return totals, scene.tangent(gradient)

        return evaluate

    def _what_would_fit(self, subject: Subject) -> str:
        height, width = subject.contents.shape[2:]

        def evaluate(side: int) -> None:
            factor = side / min(height, width)
            smaller = subject.at(round(height * factor), round(width * factor))
            scene = Scene(smaller, self._settings, self._vgg, None)
            scene.eye.gradient(scene.first_canvas(), scene.goal, self._settings)

        fits = largest_that_works(evaluate, min(height, width) * 3 // 4, 2 * stride(self._vgg))
        return (
            f"the memory is too small for a painting of {width} x {height} pixels; "
            + (f"a stylize.picture_size of {fits} fits" if fits else "no smaller size fits either")
            + ", and stylize.memory_gb paints large pictures part by part."
        )


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

    def was_lost(self, since: int) -> bool:
        """Whether a loss was not finite after so many evaluations."""
        return not all(math.isfinite(total) for rows in self._rows[since:] for total, *_ in rows)

    def trouble(self) -> str:
        """The loss that was the first not to be finite."""
        for iteration, rows in enumerate(self._rows, start=1):
            for picture, (total, *_) in enumerate(rows, start=self.picture + 1):
                if not math.isfinite(total):
                    return f"the loss of picture {picture} is {total} at iteration {iteration}"
        return ""

    def was_finite(self) -> bool:
        """Whether every picture had a loss that was finite."""
        return all(
            any(math.isfinite(rows[picture][0]) for rows in self._rows)
            for picture in range(len(self._rows[0]))
        )

    def _tell(self, evaluations: list[list[list[float]]]) -> None:
        for rows in evaluations:
            self._rows.append(rows)
            for picture, (total, *losses) in enumerate(rows, start=self.picture):
                if not math.isfinite(total):
                    continue
                per_layer = dict(zip(self._names, losses, strict=True))
                self._on_iteration(Iterate(picture, self.told, total, per_layer))
