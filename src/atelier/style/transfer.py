"""Painting one subject: scale by scale, leg by leg, part by part, and what goes wrong there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from atelier.core.errors import AtelierError, is_out_of_memory
from atelier.core.settings import StylizeSettings
from atelier.style.loss_log import Checkpointer, IterationLosses, LossLog, Preview
from atelier.style.memory import calibration_size, largest_size_that_runs, tile_size_for_memory
from atelier.style.objective import Style, cast_vgg, loss_names, weighted_sum
from atelier.style.optimizers import ImageOptimizer, build_optimizer
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import Level, downscale, levels
from atelier.style.spectral_lbfgs import Evaluate
from atelier.style.vgg import calibrate, preprocess, stride

# Between two parts a picture can be kept and painted on; each costs torch's L-BFGS one evaluation.
_EVALUATIONS_PER_CHUNK = 25
# Fewer may all be of the canvas as it was, or of a step that is tried again, shorter.
_EVALUATIONS_TO_STALL = 5
# Each time that a loss is not finite steps become a tenth as long, so often at most.
_MAX_STEP_SHRINKS = 6


class StyleTransfer:
    """Painting one subject: the legs of its way, with what goes wrong on them."""

    def __init__(
        self,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        journal: LossLog,
        saver: Checkpointer,
        watch: Callable[[Preview], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._vgg, self._journal = settings, vgg, journal
        self._saver, self._watch, self._say = saver, watch, say

    def run(self, subject: StyleJob) -> Tensor:
        """Return paintings ``[B, 3, H, W]``, or say which size the memory would hold."""
        try:
            return self._run(subject)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        raise AtelierError(self._suggest_size(subject))

    def _run(self, subject: StyleJob) -> Tensor:
        height, width = subject.contents.shape[2:]
        styles = {id(style): style for look in subject.styles for style in look.images}
        shapes = [(style.shape[2], style.shape[3]) for style in styles.values()]
        side = tile_size_for_memory(height, width, self._settings, self._vgg, shapes)
        if self._settings.style_strength == 0:
            scene = ScaledProblem(subject, self._settings, self._vgg, side)
            self._evaluation(scene, 1.0)(scene.contents)
            self._journal.deliver()
            return subject.contents
        way = list(enumerate(levels(self._settings, height, width)))
        state = self._saver.load(self._journal.picture)
        if state is not None:
            self._journal.replay(state.pop("losses"))
            way = way[int(state.pop("leg")) :]
        whole = ScaledProblem(subject, self._settings, self._vgg, side)
        scene = self._problem_at(subject, way[0][1], side, whole)
        canvas = scene.initial_image()
        for number, leg in way:
            if scene.contents.shape[2:] != (leg.height, leg.width):
                before, scene = scene, self._problem_at(subject, leg, side, whole)
                canvas = scene.upscale_from(canvas, before.contents)
            canvas = self._optimize_level(number, leg, scene, canvas, state)
            state = None
        return scene.postprocess(canvas)

    def _problem_at(
        self, subject: StyleJob, leg: Level, side: int | None, whole: ScaledProblem
    ) -> ScaledProblem:
        at_leg = subject.resize(leg.height, leg.width, stride(self._vgg))
        if at_leg is subject:
            return whole
        return ScaledProblem(at_leg, self._settings, self._vgg, side, whole)

    def _optimize_level(
        self,
        number: int,
        leg: Level,
        scene: ScaledProblem,
        canvas: Tensor,
        state: dict[str, Tensor] | None,
    ) -> Tensor:
        """Paint one leg, from its begin or from where an earlier attempt left it."""
        evaluate, caution, stuck = self._evaluation(scene, leg.content_boost), 0, False
        self._journal.level_start = self._journal.delivered
        if state is not None:
            self._journal.level_start = int(state.pop("begun"))
            canvas = state.pop("canvas").to(scene.contents.device)
            caution, stuck = int(state.pop("caution")), bool(state.pop("stuck"))
        at_work = build_optimizer(canvas, evaluate, self._settings, scene.bounds, caution)
        if state is not None:
            at_work.restore(state)
        while self._journal.delivered < leg.end_iteration and not stuck:
            before, told = at_work.image.clone(), self._journal.delivered
            self._run_chunk(at_work, min(told + _EVALUATIONS_PER_CHUNK, leg.end_iteration), scene)
            lost, stood = self._is_non_finite(told), torch.equal(at_work.image, before)
            if lost or (stood and self._journal.delivered - told >= _EVALUATIONS_TO_STALL):
                stuck = stood and caution > 0
                self._shrink_steps(lost, caution)
                caution += 1
                at_work = build_optimizer(before, evaluate, self._settings, scene.bounds, caution)
            self._checkpoint(number, leg, at_work, caution, stuck)
        return at_work.image

    def _run_chunk(self, at_work: ImageOptimizer, until: int, scene: ScaledProblem) -> None:
        """Paint a part, and show it at its end and wherever an intermediate is due."""
        journal = self._journal
        while journal.delivered < until:
            try:
                at_work.advance(
                    min(until - journal.delivered, self._until_next_preview(journal.delivered))
                )
            except KeyboardInterrupt:
                # The first evaluation is of the canvas as it began.
                if journal.recorded > 1:
                    self._preview(at_work.image, scene, interrupted=True)
                raise
            journal.deliver()
            self._preview(at_work.image, scene)

    def _preview(self, canvas: Tensor, scene: ScaledProblem, interrupted: bool = False) -> None:
        """Show pictures as they would be saved now: at full size, and only where masks are."""
        if self._watch:
            shown, journal = scene.preview(canvas).cpu().split(1), self._journal
            for picture, pixels in enumerate(shown, start=journal.picture):
                self._watch(Preview(picture, journal.recorded, pixels, interrupted))

    def _until_next_preview(self, told: int) -> int:
        """Evaluations until the next intermediate is due."""
        wanted = self._settings.save_intermediates
        # Torch's L-BFGS would pay for every halt: it is looked at where it halts anyway.
        if not wanted or self._settings.optimizer == "lbfgs":
            return _EVALUATIONS_PER_CHUNK
        every = max(1, self._settings.iterations // wanted)
        return every - told % every

    def _is_non_finite(self, told: int) -> bool:
        """Whether the painter came to where a loss is not finite and has not come back itself."""
        lost = self._journal.non_finite_labels(told)
        # What it could look at before, at another size, is no place to step back to.
        if not lost or self._settings.optimizer != "spectral_lbfgs" or self._journal.never_finite():
            return bool(lost)
        for called in lost:
            self._say(
                f"{called} has had a loss that is not finite by iteration {self._journal.delivered};"
                " it has stepped back and goes on with a shorter step"
            )
        return False

    def _shrink_steps(self, lost: bool, caution: int) -> None:
        """Say what is wrong and that smaller steps follow, or give up where they did not help."""
        if lost and (caution == _MAX_STEP_SHRINKS or self._journal.never_finite()):
            raise AtelierError(
                f"{self._journal.failure_message()}; lower stylize.lr, or set stylize.optimizer to adam"
                " with an lr of 0.02."
            )
        if lost or caution == 0:
            # Only torch's painters are lost, which paint one picture; ours stand still together.
            for called in self._journal.labels:
                self._say(
                    f"{called} {'has a loss that is not finite' if lost else 'stands still'} at"
                    f" iteration {self._journal.delivered}; it goes on from its last good state with"
                    " steps that begin a tenth as long"
                )

    def _checkpoint(
        self, number: int, leg: Level, at_work: ImageOptimizer, caution: int, stuck: bool
    ) -> None:
        """Keep all that the next part depends on."""
        journal = self._journal
        marks = {"leg": number, "begun": journal.level_start, "caution": caution, "stuck": stuck}
        told = {"canvas": at_work.image, "losses": journal.table()}
        state = {name: torch.tensor(mark) for name, mark in marks.items()} | told
        last = leg.end_iteration == self._settings.iterations
        finished = last and (stuck or journal.delivered >= leg.end_iteration)
        self._saver.save(journal.picture, journal.delivered, state | at_work.state(), finished)

    def _evaluation(self, scene: ScaledProblem, firmness: float) -> Evaluate:
        contents = self._settings.content_layers.items()
        firm = {layer: firmness * weight for layer, weight in contents}
        sought = self._settings.model_copy(update={"content_layers": firm})

        def evaluate(canvas: Tensor) -> tuple[Tensor, Tensor]:
            """The losses [B] of pictures, and their gradients; the journal is told."""
            totals, losses, gradient = scene.objective.loss_and_gradient(
                canvas, scene.targets, sought
            )
            self._journal.record(weighted_sum(losses, self._settings), losses)
            return totals, scene.project_gradient(gradient)

        return evaluate

    def _suggest_size(self, subject: StyleJob) -> str:
        height, width = subject.contents.shape[2:]

        def try_out(side: int) -> None:
            factor = side / min(height, width)
            shape = round(height * factor), round(width * factor)
            smaller = subject.resize(*shape, stride(self._vgg))
            scene = ScaledProblem(smaller, self._settings, self._vgg, None)
            evaluated = self._evaluation(scene, 1.0)
            build_optimizer(scene.initial_image(), evaluated, self._settings, scene.bounds).advance(
                2
            )

        fits = largest_size_that_runs(try_out, min(height, width) * 3 // 4, 2 * stride(self._vgg))
        change = "lower" if self._settings.memory_gb else "set"
        return (
            f"the memory is too small for a painting of {width} x {height} pixels; "
            + (f"a stylize.image_size of {fits} fits" if fits else "no smaller size fits either")
            + f", or {change} stylize.memory_gb, which paints part by part."
        )


__all__ = ["Preview", "IterationLosses", "Checkpointer", "deepest", "transfer_style"]

# One picture of 512 x 512, or 16 of 128 x 128: what a pass of VGG19 holds takes 1 GB.
_PIXELS_AT_ONCE = 2**18


def transfer_style(
    contents: Sequence[Tensor],
    styles: Tensor | Sequence[Style],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_iteration: Callable[[IterationLosses], None],
    saver: Checkpointer | None = None,
    at_once: int | None = None,
    watch: Callable[[Preview], None] | None = None,
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
    looks = [Style((styles,))] if isinstance(styles, Tensor) else list(styles)
    vgg = vgg[: deepest(settings) + 1].to(device)
    _reject_too_small(contents, looks, vgg)
    vgg = cast_vgg(_calibrate(vgg, looks, settings, device), settings, device)
    finished = 0
    for subject in _jobs(contents, looks, settings, device, at_once):
        numbers = range(finished, finished + len(subject.contents))
        titles = [called[number] if called else f"picture {number + 1}" for number in numbers]
        journal = LossLog(finished, titles, loss_names(settings), on_iteration)
        work = StyleTransfer(settings, vgg, journal, saver or Checkpointer(), watch, say)
        yield from work.run(subject).cpu().split(1)
        finished += len(subject.contents)


def _calibrate(
    vgg: nn.Sequential, looks: Sequence[Style], settings: StylizeSettings, device: torch.device
) -> nn.Sequential:
    """Fit random weights to all styles; learned ones stay as they are."""
    if settings.weights != "random":
        return vgg
    distinct = {id(style): style for look in looks for style in look.images}.values()
    side = calibration_size(settings, len(distinct))
    small = [_limit_size(style.to(device), side, stride(vgg)) for style in distinct]
    return calibrate(vgg, *(preprocess(style, settings.pixel_convention()) for style in small))


def _limit_size(style: Tensor, side: int, least: int) -> Tensor:
    """A style, smaller where its longer side is longer than ``side``."""
    return downscale(style, min(1.0, side / max(style.shape[2:])), least)


def deepest(settings: StylizeSettings) -> int:
    """The last layer that the losses see."""
    return max([*settings.style_layers, *settings.content_layers])


def _jobs(
    contents: Sequence[Tensor],
    looks: Sequence[Style],
    settings: StylizeSettings,
    device: torch.device,
    at_once: int | None,
) -> Iterator[StyleJob]:
    """Pictures that are painted together: neighbours of one size, with equally many masks."""
    same = len(looks) == 1
    pairs = [(one, looks[0 if same else number]) for number, one in enumerate(contents)]
    for (height, width, _), group in groupby(pairs, lambda p: (*p[0].shape[2:], len(p[1].masks))):
        fit = 1 if device.type == "cpu" else max(1, _PIXELS_AT_ONCE // (height * width))
        most = (at_once or fit) if settings.optimizer == "spectral_lbfgs" else 1
        waiting = list(group)
        for begin in range(0, len(waiting), most):
            together = waiting[begin : begin + most]
            batch = torch.cat([content for content, _ in together]).to(device)
            moved = tuple(_to_device(look, device) for _, look in together)
            yield StyleJob(batch, moved[:1] if same else moved)


def _to_device(look: Style, device: torch.device) -> Style:
    styles = tuple(style.to(device) for style in look.images)
    return replace(look, images=styles, masks=tuple(mask.to(device) for mask in look.masks))


def _reject_too_small(
    contents: Sequence[Tensor], looks: Sequence[Style], vgg: nn.Sequential
) -> None:
    """Refuse a picture of which the deepest layer would see nothing, and a mask of nothing."""
    least = stride(vgg)
    pictures = [("content", content) for content in contents]
    pictures += [("style", style) for look in looks for style in look.images]
    for what, picture in pictures:
        height, width = picture.shape[2:]
        if min(height, width) < least:
            raise AtelierError(
                f"the {what} of {width} x {height} pixels is too small for layer {len(vgg) - 1} of"
                f" VGG19, which needs {least} pixels each way; raise stylize.image_size, or"
                " choose layers less deep."
            )
    if any(not bool((mask > 0).any()) for look in looks for mask in look.masks):
        raise AtelierError(
            "one of stylize.style_masks is black all over, so that its style has no place; make"
            " it white where the style belongs."
        )
