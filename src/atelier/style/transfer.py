"""Style transfer of a batch: pyramid levels, optimization, recovery and checkpoints."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from atelier.core.errors import SettingError, SettingName, is_out_of_memory
from atelier.core.settings import StylizeSettings
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.graphed_evaluation import LEAST_EVALUATIONS, Evaluator, GraphCapture
from atelier.style.loss_log import LossLog, Preview, StyleEvents
from atelier.style.memory import (
    calibration_size,
    largest_size_that_runs,
    resolve_memory_limit,
    tile_size_for_memory,
)
from atelier.style.objective import Style, cast_vgg, loss_names, weighted_sum
from atelier.style.optimizers import ImageOptimizer, build_optimizer
from atelier.style.problem import ScaledProblem, StyleJob
from atelier.style.pyramid import Level, downscale, levels
from atelier.style.spectral_lbfgs import Evaluate
from atelier.style.vgg import calibrate, device_of, preprocess, stride

# Checkpoints are possible between chunks. Each chunk costs torch's L-BFGS one more evaluation.
_EVALUATIONS_PER_CHUNK = 25
# Fewer evaluations may all be of the unchanged image, or of one step that is being shortened.
_EVALUATIONS_TO_STALL = 5
# The second one needs the memory of an optimizer's history.
_EVALUATIONS_TO_FIT = 2
# Maximum number of times that steps are divided by 10 after a non-finite loss.
_MAX_STEP_SHRINKS = 6
# One image of 512 x 512, or 16 of 128 x 128; the maps of VGG19 then take 1 GB.
_PIXELS_PER_BATCH = 2**18


@dataclass(frozen=True)
class TransferTask:
    """Content to stylize in a style.

    Attributes:
        number: index of the result, from 0. Losses, previews and checkpoints have this index.
        name: of the result, for messages.
        content: float32 ``[1, 3, H, W]``, RGB, 0 to 1, of any size.
        style: tasks with the same object share its statistics.
    """

    number: int
    name: str
    content: Tensor
    style: Style


def transfer_style(
    tasks: Sequence[TransferTask],
    settings: StylizeSettings,
    vgg: nn.Sequential,
    events: StyleEvents | None = None,
    checkpoints: TransferCheckpoints | None = None,
    batch_size: int | None = None,
) -> Iterator[Tensor]:
    """Stylize the content of each task, and yield each result as soon as it is finished.

    Gatys, Ecker and Bethge 2016, "Image style transfer using convolutional neural networks"
    (CVPR). Optimizers of torch process one image after another. With ``spectral_lbfgs``, images of
    one size can share the passes of VGG19; sums over a batch may be rounded differently.

    Args:
        tasks: contents and their styles; consecutive ones of one size can share passes.
        settings: the ``stylize`` section.
        vgg: from :func:`atelier.style.vgg.build_vgg19`, deep enough for the settings' layers, on
            the device of the computation. Random weights are calibrated on all styles, in a copy.
        events: receives losses, previews and warnings. The losses of an earlier attempt are
            delivered again.
        checkpoints: saves unfinished images, and loads those of an earlier attempt.
        batch_size: maximum number of images that share a pass. The default is 1 on a CPU, where
            larger batches are not faster, and 512 x 512 pixels in total on other devices.

    Yields:
        Stylized images of their contents' sizes, float32 ``[1, 3, H, W]`` on the CPU, 0 to 1.

    Raises:
        AtelierError: the loss stays non-finite, an image is too small, a mask is empty, or memory
            is short.
    """
    device = device_of(vgg)
    settings = resolve_memory_limit(settings, device)
    vgg = vgg[: deepest_layer(settings) + 1]
    _reject_too_small(tasks, vgg)
    vgg = cast_vgg(_calibrate(vgg, tasks, settings), settings, device)
    events, checkpoints = events or StyleEvents(), checkpoints or TransferCheckpoints()
    graphs = GraphCapture(events)
    for job in _jobs(tasks, settings, device, batch_size):
        transfer = StyleTransfer(job, settings, vgg, events, checkpoints, graphs)
        yield from transfer.run().cpu().split(1)


class StyleTransfer:
    """Style transfer of one batch."""

    def __init__(
        self,
        job: StyleJob,
        settings: StylizeSettings,
        vgg: nn.Sequential,
        events: StyleEvents,
        checkpoints: TransferCheckpoints,
        graphs: GraphCapture,
    ) -> None:
        self._job, self._settings, self._vgg = job, settings, vgg
        self._events, self._checkpoints, self._graphs = events, checkpoints, graphs
        self._first_image = next(iter(job.images))
        self._log = LossLog(job.images, loss_names(settings), events)
        self._step_shrinks, self._stalled = 0, False  # at the current pyramid level

    def run(self) -> Tensor:
        """Return the stylized images ``[B, 3, H, W]``.

        Raises:
            AtelierError: there is too little memory, or the loss stays non-finite.
        """
        try:
            return self._run()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler, which would keep the failed attempt's tensors in memory.
        raise self._too_large_error()

    def _run(self) -> Tensor:
        height, width = self._job.contents.shape[2:]
        images = {id(image): image for style in self._job.styles for image in style.images}
        shapes = [(image.shape[2], image.shape[3]) for image in images.values()]
        tile_size = tile_size_for_memory(height, width, self._settings, self._vgg, shapes)
        full_size = ScaledProblem(self._job, self._settings, self._vgg, tile_size)
        if self._settings.style_strength == 0:
            self._evaluation(full_size, 1.0, 1)(full_size.contents)
            self._log.deliver()
            return self._job.contents
        remaining = list(enumerate(levels(self._settings, height, width)))
        state = self._checkpoints.load(self._first_image)
        if state is not None:
            # Checkpoints of earlier versions have the start of the last level only.
            starts = state.pop("level_starts", state["begun"].reshape(1))
            self._log.replay(state.pop("losses"), starts.tolist())
            remaining = remaining[int(state.pop("leg")) :]
        problem = self._problem_at(remaining[0][1], tile_size, full_size)
        image = problem.initial_image()
        for number, level in remaining:
            if problem.contents.shape[2:] != (level.height, level.width):
                previous = problem
                problem = self._problem_at(level, tile_size, full_size)
                image = problem.upscale_from(image, previous.contents)
            image = self._optimize_level(number, level, problem, image, state)
            state = None
        return problem.postprocess(image)

    def _problem_at(
        self, level: Level, tile_size: int | None, full_size: ScaledProblem
    ) -> ScaledProblem:
        """Return the problem at the size of a pyramid level."""
        job = self._job.resize(level.height, level.width, stride(self._vgg))
        if job is self._job:
            return full_size
        return ScaledProblem(job, self._settings, self._vgg, tile_size, full_size)

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
        settings, bounds, log = self._settings, problem.bounds, self._log
        evaluations = level.end_iteration - log.delivered
        evaluate = self._evaluation(problem, level.content_boost, evaluations)
        self._step_shrinks, self._stalled = 0, False
        if state is None:
            log.level_starts.append(log.delivered)
        else:
            del state["begun"]
            image = state.pop("canvas").to(problem.contents.device)
            self._step_shrinks, self._stalled = int(state.pop("caution")), bool(state.pop("stuck"))
        optimizer = build_optimizer(image, evaluate, settings, bounds, self._step_shrinks)
        if state is not None:
            optimizer.restore(state)
        while log.delivered < level.end_iteration and not self._stalled:
            before, start = optimizer.current_image().clone(), log.delivered
            end = min(start + _EVALUATIONS_PER_CHUNK, level.end_iteration)
            self._run_chunk(optimizer, end, problem)
            if self._recover(start, torch.equal(optimizer.current_image(), before)):
                optimizer = build_optimizer(before, evaluate, settings, bounds, self._step_shrinks)
            self._save(number, level, optimizer)
        return optimizer.current_image()

    def _run_chunk(self, optimizer: ImageOptimizer, end: int, problem: ScaledProblem) -> None:
        """Optimize up to evaluation ``end``, with previews at the end and at intermediates."""
        log = self._log
        while log.delivered < end:
            try:
                optimizer.advance(min(end - log.delivered, self._until_next_preview(log.delivered)))
            except KeyboardInterrupt:
                # The first evaluation is of the initial image, which is not worth a preview.
                if log.recorded > 1:
                    self._preview(optimizer.current_image(), problem, interrupted=True)
                raise
            log.deliver()
            self._preview(optimizer.current_image(), problem)

    def _preview(self, image: Tensor, problem: ScaledProblem, interrupted: bool = False) -> None:
        """Pass the images on, postprocessed at the size of the result."""
        previews = problem.preview(image).split(1)
        for number, pixels in zip(self._job.images, previews, strict=True):
            self._events.on_preview(Preview(number, self._log.recorded, pixels, interrupted))

    def _until_next_preview(self, evaluations: int) -> int:
        """Return the number of evaluations until the next intermediate image."""
        count = self._settings.save_intermediates
        # Each call costs torch's L-BFGS an evaluation, so that it has previews of chunks only.
        if not count or self._settings.optimizer == "lbfgs":
            return _EVALUATIONS_PER_CHUNK
        interval = max(1, self._settings.iterations // count)
        return interval - evaluations % interval

    def _recover(self, start: int, unchanged: bool) -> bool:
        """Shorten the steps if losses became non-finite or the images stopped changing.

        Args:
            start: number of evaluations before those to check.
            unchanged: true if these evaluations did not change the images.

        Returns:
            True if the optimization must restart from the images before these evaluations.

        Raises:
            AtelierError: shorter steps cannot help.
        """
        log, shrinks = self._log, self._step_shrinks
        undoes_steps = self._settings.optimizer == "spectral_lbfgs"
        non_finite = log.non_finite_labels(start)
        # Without a finite loss at this level there is no image to return to.
        if non_finite and (
            log.never_finite() or (shrinks == _MAX_STEP_SHRINKS and not undoes_steps)
        ):
            raise SettingError(
                "{failure}; lower {lr}, or set {optimizer} to adam with an lr of 0.02.",
                failure=log.failure_message(),
                lr=SettingName("stylize.lr"),
                optimizer=SettingName("stylize.optimizer"),
            )
        if undoes_steps:
            for label in non_finite:
                self._events.warn(
                    f"{label} had a non-finite loss by iteration {log.delivered}; the step"
                    " was undone, and the optimization continues with a shorter one"
                )
            non_finite = []
        is_stall = unchanged and log.delivered - start >= _EVALUATIONS_TO_STALL
        if not non_finite and not is_stall:
            return False
        if non_finite or shrinks == 0:
            problem = "has a non-finite loss" if non_finite else "has stopped changing"
            # Optimizers of torch have one image.
            for label in log.labels:
                self._events.warn(
                    f"{label} {problem} at iteration {log.delivered}; the optimization"
                    " restarts from its last good state with steps a tenth as long"
                )
        self._step_shrinks, self._stalled = shrinks + 1, unchanged and shrinks > 0
        return True

    def _save(self, number: int, level: Level, optimizer: ImageOptimizer) -> None:
        """Pass all that the next chunk depends on to the checkpoints."""
        log = self._log
        progress = {
            "leg": number,
            "begun": log.level_start,
            "level_starts": log.level_starts,
            "caution": self._step_shrinks,
            "stuck": self._stalled,
        }
        state = {name: torch.tensor(value) for name, value in progress.items()}
        state |= {"canvas": optimizer.current_image(), "losses": log.table()}
        is_last = level.end_iteration == self._settings.iterations
        finished = is_last and (self._stalled or log.delivered >= level.end_iteration)
        self._checkpoints.save(
            self._first_image, log.delivered, state | optimizer.state(), finished
        )

    def _evaluation(
        self, problem: ScaledProblem, content_boost: float, evaluations: int
    ) -> Evaluate:
        """Return the function that evaluates images and records their losses.

        Args:
            problem: at one size.
            content_boost: factor of the content weights.
            evaluations: number of calls to expect; a few are not worth a graph.
        """
        content_layers = {
            layer: content_boost * weight for layer, weight in self._settings.content_layers.items()
        }
        boosted = self._settings.model_copy(update={"content_layers": content_layers})
        graphs = self._graphs if evaluations >= LEAST_EVALUATIONS else None
        compute = Evaluator(partial(problem.loss_and_gradient, settings=boosted), graphs)

        def evaluate(image: Tensor) -> tuple[Tensor, Tensor]:
            totals, losses, gradient = compute(image)
            self._log.record(weighted_sum(losses, self._settings), losses)
            return totals, gradient

        return evaluate

    def _too_large_error(self) -> SettingError:
        """Return an error that names an image size for which the memory suffices."""
        height, width = self._job.contents.shape[2:]

        def try_size(size: int) -> None:
            factor = size / min(height, width)
            shape = round(height * factor), round(width * factor)
            smaller = self._job.resize(*shape, stride(self._vgg))
            problem = ScaledProblem(smaller, self._settings, self._vgg, None)
            build_optimizer(
                problem.initial_image(),
                self._evaluation(problem, 1.0, _EVALUATIONS_TO_FIT),
                self._settings,
                problem.bounds,
            ).advance(_EVALUATIONS_TO_FIT)

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
    vgg: nn.Sequential, tasks: Sequence[TransferTask], settings: StylizeSettings
) -> nn.Sequential:
    """Calibrate random weights on all style images; other weights are returned unchanged."""
    if settings.weights != "random":
        return vgg
    device = device_of(vgg)
    images = {id(image): image for task in tasks for image in task.style.images}.values()
    size = calibration_size(settings, len(images))
    small = [_limit_size(image.to(device), size, stride(vgg)) for image in images]
    return calibrate(vgg, *(preprocess(image, settings.pixel_convention()) for image in small))


def _limit_size(image: Tensor, size: int, min_size: int) -> Tensor:
    """Downscale an image whose longer side exceeds ``size``."""
    return downscale(image, min(1.0, size / max(image.shape[2:])), min_size)


def _jobs(
    tasks: Sequence[TransferTask],
    settings: StylizeSettings,
    device: torch.device,
    batch_size: int | None,
) -> Iterator[StyleJob]:
    """Yield batches of consecutive contents of one size, with the same number of masks."""
    is_shared = all(task.style is tasks[0].style for task in tasks)
    for (height, width, _), group in groupby(
        tasks, lambda task: (*task.content.shape[2:], len(task.style.masks))
    ):
        fits = 1 if device.type == "cpu" else max(1, _PIXELS_PER_BATCH // (height * width))
        size = (batch_size or fits) if settings.optimizer == "spectral_lbfgs" else 1
        members = list(group)
        for start in range(0, len(members), size):
            batch = members[start : start + size]
            contents = torch.cat([task.content for task in batch]).to(device)
            styles = tuple(_to_device(task.style, device) for task in batch)
            images = {task.number: task.name for task in batch}
            yield StyleJob(contents, styles[:1] if is_shared else styles, images)


def _to_device(style: Style, device: torch.device) -> Style:
    images = tuple(image.to(device) for image in style.images)
    return replace(style, images=images, masks=tuple(mask.to(device) for mask in style.masks))


def _reject_too_small(tasks: Sequence[TransferTask], vgg: nn.Sequential) -> None:
    """Raise if an image is smaller than one position of the deepest layer, or a mask is empty."""
    min_size = stride(vgg)
    images = [("content", task.content) for task in tasks]
    images += [("style", image) for task in tasks for image in task.style.images]
    for kind, image in images:
        height, width = image.shape[2:]
        if min(height, width) < min_size:
            raise SettingError(
                f"the {kind} of {width} x {height} pixels is too small for layer {len(vgg) - 1} of"
                f" VGG19, which needs {min_size} pixels in each direction; raise"
                " {image_size}, or choose shallower layers.",
                image_size=SettingName("stylize.image_size"),
            )
    if any(not bool((mask > 0).any()) for task in tasks for mask in task.style.masks):
        raise SettingError(
            "one of {masks} is entirely black; make it white where its style belongs.",
            masks=SettingName("stylize.style_masks"),
        )
