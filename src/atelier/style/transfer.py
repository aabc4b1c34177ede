"""Style transfer of a batch: pyramid levels, optimization, recovery and checkpoints."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from atelier.core.errors import SettingError, SettingName, is_out_of_memory
from atelier.core.settings import StylizeSettings
from atelier.style.loss_log import Checkpointer, IterationLosses, LossLog, Preview
from atelier.style.memory import calibration_size, largest_size_that_runs, tile_size_for_memory
from atelier.style.objective import Style, cast_vgg, loss_names, weighted_sum
from atelier.style.optimizers import ImageOptimizer, build_optimizer
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import Level, downscale, levels
from atelier.style.spectral_lbfgs import Evaluate
from atelier.style.vgg import calibrate, preprocess, stride

# Checkpoints are possible between chunks. Each chunk costs torch's L-BFGS one more evaluation.
_EVALUATIONS_PER_CHUNK = 25
# Fewer evaluations may all be of the unchanged image, or of one step that is being shortened.
_EVALUATIONS_TO_STALL = 5
# Maximum number of times that steps are divided by 10 after a non-finite loss.
_MAX_STEP_SHRINKS = 6
# One image of 512 x 512, or 16 of 128 x 128; the maps of VGG19 then take 1 GB.
_PIXELS_PER_BATCH = 2**18


def transfer_style(
    contents: Sequence[Tensor],
    styles: Tensor | Sequence[Style],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    device: torch.device,
    on_losses: Callable[[IterationLosses], None],
    checkpointer: Checkpointer | None = None,
    batch_size: int | None = None,
    on_preview: Callable[[Preview], None] | None = None,
    warn: Callable[[str], None] = lambda message: None,
    labels: Sequence[str] = (),
) -> Iterator[Tensor]:
    """Stylize each of ``contents``, and yield each stylized image as soon as it is finished.

    Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks"
    (CVPR). Optimizers of torch process one image after another. With ``spectral_lbfgs``, images of
    one size can share the passes of VGG19; sums over a batch may be rounded differently.

    Args:
        contents: each float32 ``[1, 3, H, W]``, RGB, 0 to 1, of any size.
        styles: one style image for all contents, float32 ``[1, 3, h, w]``, RGB, 0 to 1; or one
            :class:`Style` for all, or one for each.
        settings: the ``stylize`` section.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, deep enough for the settings' layers.
            It is moved to ``device``. Random weights are calibrated on all styles, in a copy.
        device: where to compute.
        on_losses: called for every evaluation with a finite loss, in blocks; an evaluation is an
            iteration. L-BFGS of torch may make one more than ``settings.iterations``. Both
            L-BFGS may end earlier, if no step lowers the loss.
        checkpointer: saves states under the index of a batch's first image. Evaluations of an
            earlier attempt are passed to ``on_losses`` again.
        batch_size: maximum number of images that share a pass. The default is 1 on a CPU, where
            larger batches are not faster, and 512 x 512 pixels in total on other devices.
        on_preview: called with unfinished images, more often if ``save_intermediates`` is set.
        warn: called with a sentence after a problem from which the optimization recovered.
        labels: name of each image for messages; ``image 1`` and so on by default.

    Yields:
        Stylized images of their contents' sizes, float32 ``[1, 3, H, W]`` on the CPU, 0 to 1.

    Raises:
        AtelierError: the loss stays non-finite, an image is too small, a mask is empty, or memory
            is short.
    """
    styles = [Style((styles,))] if isinstance(styles, Tensor) else list(styles)
    vgg = vgg[: deepest_layer(settings) + 1].to(device)
    _reject_too_small(contents, styles, vgg)
    vgg = cast_vgg(_calibrate(vgg, styles, settings, device), settings, device)
    finished, checkpointer = 0, checkpointer or Checkpointer()
    for job in _jobs(contents, styles, settings, device, batch_size):
        numbers = range(finished, finished + len(job.contents))
        names = [labels[number] if labels else f"image {number + 1}" for number in numbers]
        log = LossLog(finished, names, loss_names(settings), on_losses)
        transfer = StyleTransfer(settings, vgg, log, checkpointer, on_preview, warn)
        yield from transfer.run(job).cpu().split(1)
        finished += len(job.contents)


class StyleTransfer:
    """Style transfer of one batch."""

    def __init__(
        self,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        log: LossLog,
        checkpointer: Checkpointer,
        on_preview: Callable[[Preview], None] | None,
        warn: Callable[[str], None],
    ) -> None:
        self._settings, self._vgg, self._log = settings, vgg, log
        self._checkpointer, self._on_preview, self._warn = checkpointer, on_preview, warn

    def run(self, job: StyleJob) -> Tensor:
        """Return the stylized images ``[B, 3, H, W]``.

        Raises:
            AtelierError: there is too little memory, or the loss stays non-finite.
        """
        try:
            return self._run(job)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, which would keep the failed attempt's tensors in memory.
        raise self._too_large_error(job)

    def _run(self, job: StyleJob) -> Tensor:
        height, width = job.contents.shape[2:]
        images = {id(image): image for style in job.styles for image in style.images}
        shapes = [(image.shape[2], image.shape[3]) for image in images.values()]
        tile_size = tile_size_for_memory(height, width, self._settings, self._vgg, shapes)
        full_size = ScaledProblem(job, self._settings, self._vgg, tile_size)
        if self._settings.style_strength == 0:
            self._evaluation(full_size, 1.0)(full_size.contents)
            self._log.deliver()
            return job.contents
        remaining = list(enumerate(levels(self._settings, height, width)))
        state = self._checkpointer.load(self._log.first_image)
        if state is not None:
            self._log.replay(state.pop("losses"))
            remaining = remaining[int(state.pop("leg")) :]
        problem = self._problem_at(job, remaining[0][1], tile_size, full_size)
        image = problem.initial_image()
        for number, level in remaining:
            if problem.contents.shape[2:] != (level.height, level.width):
                previous = problem
                problem = self._problem_at(job, level, tile_size, full_size)
                image = problem.upscale_from(image, previous.contents)
            image = self._optimize_level(number, level, problem, image, state)
            state = None
        return problem.postprocess(image)

    def _problem_at(
        self, job: StyleJob, level: Level, tile_size: int | None, full_size: ScaledProblem
    ) -> ScaledProblem:
        """Return the problem at the size of a pyramid level."""
        scaled_job = job.resize(level.height, level.width, stride(self._vgg))
        if scaled_job is job:
            return full_size
        return ScaledProblem(scaled_job, self._settings, self._vgg, tile_size, full_size)

    def _optimize_level(
        self,
        number: int,
        level: Level,
        problem: ScaledProblem,
        image: Tensor,
        state: dict[str, Tensor] | None,
    ) -> Tensor:
        """Return the optimized images of a pyramid level.

        Args:
            number: index of the level.
            level: size, content boost and last evaluation.
            problem: at the level's size.
            image: the initial images.
            state: saved by an earlier attempt at this level, if any.
        """
        evaluate = self._evaluation(problem, level.content_boost)
        step_shrinks, stalled = 0, False
        self._log.level_start = self._log.delivered
        if state is not None:
            self._log.level_start = int(state.pop("begun"))
            image = state.pop("canvas").to(problem.contents.device)
            step_shrinks, stalled = int(state.pop("caution")), bool(state.pop("stuck"))
        optimizer = build_optimizer(image, evaluate, self._settings, problem.bounds, step_shrinks)
        if state is not None:
            optimizer.restore(state)
        while self._log.delivered < level.end_iteration and not stalled:
            before, start = optimizer.image.clone(), self._log.delivered
            self._run_chunk(
                optimizer, min(start + _EVALUATIONS_PER_CHUNK, level.end_iteration), problem
            )
            non_finite = self._is_non_finite(start)
            unchanged = torch.equal(optimizer.image, before)
            evaluations = self._log.delivered - start
            if non_finite or (unchanged and evaluations >= _EVALUATIONS_TO_STALL):
                stalled = unchanged and step_shrinks > 0
                self._shrink_steps(non_finite, step_shrinks)
                step_shrinks += 1
                optimizer = build_optimizer(
                    before, evaluate, self._settings, problem.bounds, step_shrinks
                )
            self._checkpoint(number, level, optimizer, step_shrinks, stalled)
        return optimizer.image

    def _run_chunk(self, optimizer: ImageOptimizer, end: int, problem: ScaledProblem) -> None:
        """Optimize up to evaluation ``end``, with previews at the end and at intermediates."""
        log = self._log
        while log.delivered < end:
            try:
                optimizer.advance(min(end - log.delivered, self._until_next_preview(log.delivered)))
            except KeyboardInterrupt:
                # The first evaluation is of the initial image, which is not worth a preview.
                if log.recorded > 1:
                    self._preview(optimizer.image, problem, interrupted=True)
                raise
            log.deliver()
            self._preview(optimizer.image, problem)

    def _preview(self, image: Tensor, problem: ScaledProblem, interrupted: bool = False) -> None:
        """Pass the images on, postprocessed at the size of the result."""
        if self._on_preview:
            previews = problem.preview(image).cpu().split(1)
            for number, pixels in enumerate(previews, start=self._log.first_image):
                self._on_preview(Preview(number, self._log.recorded, pixels, interrupted))

    def _until_next_preview(self, evaluations: int) -> int:
        """Return the number of evaluations until the next intermediate image."""
        count = self._settings.save_intermediates
        # Each call costs torch's L-BFGS an evaluation, so that it has previews of chunks only.
        if not count or self._settings.optimizer == "lbfgs":
            return _EVALUATIONS_PER_CHUNK
        interval = max(1, self._settings.iterations // count)
        return interval - evaluations % interval

    def _is_non_finite(self, since: int) -> bool:
        """Return true if the loss became non-finite, and the optimizer cannot recover.

        If it can, a warning is given instead.

        Args:
            since: number of evaluations before those to check.
        """
        labels = self._log.non_finite_labels(since)
        recovers = self._settings.optimizer == "spectral_lbfgs"
        # Without a finite loss at this level there is no image to return to.
        if not labels or not recovers or self._log.never_finite():
            return bool(labels)
        for label in labels:
            self._warn(
                f"{label} had a non-finite loss by iteration {self._log.delivered}; the step"
                " was undone, and the optimization continues with a shorter one"
            )
        return False

    def _shrink_steps(self, non_finite: bool, step_shrinks: int) -> None:
        """Warn that steps become shorter, or raise if shorter steps cannot help.

        Args:
            non_finite: true after a non-finite loss, false if the images did not change.
            step_shrinks: number of times that steps were shortened before.
        """
        if non_finite and (step_shrinks == _MAX_STEP_SHRINKS or self._log.never_finite()):
            raise SettingError(
                "{failure}; lower {lr}, or set {optimizer} to adam with an lr of 0.02.",
                failure=self._log.failure_message(),
                lr=SettingName("stylize.lr"),
                optimizer=SettingName("stylize.optimizer"),
            )
        if non_finite or step_shrinks == 0:
            problem = "has a non-finite loss" if non_finite else "has stopped changing"
            # Non-finite losses end here only with torch's optimizers, which have one image.
            for label in self._log.labels:
                self._warn(
                    f"{label} {problem} at iteration {self._log.delivered}; the optimization"
                    " restarts from its last good state with steps a tenth as long"
                )

    def _checkpoint(
        self,
        number: int,
        level: Level,
        optimizer: ImageOptimizer,
        step_shrinks: int,
        stalled: bool,
    ) -> None:
        """Pass all that the next chunk depends on to the checkpointer."""
        log = self._log
        progress = {
            "leg": number,
            "begun": log.level_start,
            "caution": step_shrinks,
            "stuck": stalled,
        }
        state = {name: torch.tensor(value) for name, value in progress.items()}
        state |= {"canvas": optimizer.image, "losses": log.table()}
        is_last = level.end_iteration == self._settings.iterations
        finished = is_last and (stalled or log.delivered >= level.end_iteration)
        self._checkpointer.save(log.first_image, log.delivered, state | optimizer.state(), finished)

    def _evaluation(self, problem: ScaledProblem, content_boost: float) -> Evaluate:
        """Return the function that evaluates images and records their losses."""
        content_layers = {
            layer: content_boost * weight for layer, weight in self._settings.content_layers.items()
        }
        boosted = self._settings.model_copy(update={"content_layers": content_layers})

        def evaluate(image: Tensor) -> tuple[Tensor, Tensor]:
            totals, losses, gradient = problem.objective.loss_and_gradient(
                image, problem.targets, boosted
            )
            self._log.record(weighted_sum(losses, self._settings), losses)
            return totals, problem.project_gradient(gradient)

        return evaluate

    def _too_large_error(self, job: StyleJob) -> SettingError:
        """Return an error that names an image size for which the memory suffices."""
        height, width = job.contents.shape[2:]

        def try_size(size: int) -> None:
            factor = size / min(height, width)
            shape = round(height * factor), round(width * factor)
            smaller = job.resize(*shape, stride(self._vgg))
            problem = ScaledProblem(smaller, self._settings, self._vgg, None)
            build_optimizer(
                problem.initial_image(),
                self._evaluation(problem, 1.0),
                self._settings,
                problem.bounds,
            ).advance(2)

        fits = largest_size_that_runs(try_size, min(height, width) * 3 // 4, 2 * stride(self._vgg))
        change = "lower" if self._settings.memory_gb else "set"
        advice = f"a {{image_size}} of {fits} fits" if fits else "no smaller size fits either"
        return SettingError(
            f"the memory is too small for a stylized image of {width} x {height} pixels; {advice},"
            f" or {change} {{memory_gb}} to compute the image in tiles.",
            image_size=SettingName("stylize.image_size"),
            memory_gb=SettingName("stylize.memory_gb"),
        )


def deepest_layer(settings: StylizeSettings) -> int:
    """Return the deepest layer of the losses."""
    return max([*settings.style_layers, *settings.content_layers])


def _calibrate(
    vgg: nn.Sequential, styles: Sequence[Style], settings: StylizeSettings, device: torch.device
) -> nn.Sequential:
    """Calibrate random weights on all style images; other weights are returned unchanged."""
    if settings.weights != "random":
        return vgg
    images = {id(image): image for style in styles for image in style.images}.values()
    size = calibration_size(settings, len(images))
    small = [_limit_size(image.to(device), size, stride(vgg)) for image in images]
    return calibrate(vgg, *(preprocess(image, settings.pixel_convention()) for image in small))


def _limit_size(image: Tensor, size: int, min_size: int) -> Tensor:
    """Downscale an image whose longer side exceeds ``size``."""
    return downscale(image, min(1.0, size / max(image.shape[2:])), min_size)


def _jobs(
    contents: Sequence[Tensor],
    styles: Sequence[Style],
    settings: StylizeSettings,
    device: torch.device,
    batch_size: int | None,
) -> Iterator[StyleJob]:
    """Yield batches of consecutive contents of one size, with the same number of masks."""
    shared = len(styles) == 1
    pairs = [(content, styles[0 if shared else number]) for number, content in enumerate(contents)]
    for (height, width, _), group in groupby(pairs, lambda p: (*p[0].shape[2:], len(p[1].masks))):
        fits = 1 if device.type == "cpu" else max(1, _PIXELS_PER_BATCH // (height * width))
        size = (batch_size or fits) if settings.optimizer == "spectral_lbfgs" else 1
        members = list(group)
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            images = torch.cat([content for content, _ in batch]).to(device)
            moved = tuple(_to_device(style, device) for _, style in batch)
            yield StyleJob(images, moved[:1] if shared else moved)


def _to_device(style: Style, device: torch.device) -> Style:
    images = tuple(image.to(device) for image in style.images)
    return replace(style, images=images, masks=tuple(mask.to(device) for mask in style.masks))


def _reject_too_small(
    contents: Sequence[Tensor], styles: Sequence[Style], vgg: nn.Sequential
) -> None:
    """Raise if an image is smaller than one position of the deepest layer, or a mask is empty."""
    min_size = stride(vgg)
    images = [("content", content) for content in contents]
    images += [("style", image) for style in styles for image in style.images]
    for kind, image in images:
        height, width = image.shape[2:]
        if min(height, width) < min_size:
            raise SettingError(
                f"the {kind} of {width} x {height} pixels is too small for layer {len(vgg) - 1} of"
                f" VGG19, which needs {min_size} pixels in each direction; raise"
                " {image_size}, or choose shallower layers.",
                image_size=SettingName("stylize.image_size"),
            )
    if any(not bool((mask > 0).any()) for style in styles for mask in style.masks):
        raise SettingError(
            "one of {masks} is entirely black; make it white where its style belongs.",
            masks=SettingName("stylize.style_masks"),
        )
