"""Logging of a training: its size to the terminal, samples to files, results to a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atelier.core.checkpoints import Checkpoints
from atelier.core.device import device_name
from atelier.core.errors import NotExtendableError, count_text
from atelier.core.paths import NETWORKS
from atelier.core.progress import Progress, ProgressCallback, duration_text, print_above_bars
from atelier.core.settings import Settings
from atelier.gan.extension import extend
from atelier.gan.fit import TrainingEvents
from atelier.gan.history import EpochResult, History
from atelier.gan.length import few_images_advice
from atelier.gan.sample_files import save_augmented, save_samples
from atelier.gan.trainer import Trainer
from atelier.gan.training_plan import MIN_ESTIMATED_STEPS, TrainingPlan, plan_training
from atelier.tracking.epoch_reports import report_epoch
from atelier.tracking.redact import redact_urls
from atelier.tracking.run import VALIDATION_KID, Run
from atelier.tracking.trained_networks import ARTIFACTS

# Metrics of the columns of ``atelier.gan.step.STATISTICS``.
CURVES = ("loss/d", "loss/g", "scores/d_x", "scores/d_g_z1", "scores/d_g_z2")


class TrainingLog(TrainingEvents):
    """Prints the size of the training, writes samples, and logs results and warnings to a run."""

    def __init__(
        self, run: Run, folder: Path, report: ProgressCallback, settings: Settings
    ) -> None:
        self._run, self._folder, self._report, self._settings = run, folder, report, settings
        self._columns = 0
        self._first_step: int | None = None  # of this attempt; not known before
        self._last: NDArray[np.uint8] | None = None

    def extend_finished(self, trainer: Trainer, checkpoints: Checkpoints) -> None:
        """Continue from the last finished training if only the length differs; else print why not.

        Also print why a stopped training is not continued.

        Args:
            trainer: at step 0.
            checkpoints: of this training, which receive the state of the finished one.
        """
        steps = None
        try:
            with self._run.finished_training() as finished:
                if finished is not None:
                    steps = extend(trainer, finished, checkpoints)
                    self._run.set_extended(steps, finished)
        except NotExtendableError as error:
            print_above_bars(f"  The training starts again from step 0, because {error}.")
        if steps is not None:
            print_above_bars(f"  {_extension_text(trainer, steps)}")
        elif reason := self._run.stopped_reason():
            print_above_bars(f"  The stopped training is not continued, because {reason}.")

    def on_progress(self, progress: Progress) -> None:
        """Show the progress; steps of an earlier attempt do not count for the speed."""
        self._report(replace(progress, initial=self._first_step or 0))

    def warn(self, *warnings: str) -> None:
        """Print and log warnings."""
        self._run.warn(*warnings)

    def on_start(
        self, samples: NDArray[np.uint8], columns: int, augmented: NDArray[np.uint8] | None
    ) -> None:
        """Save images as the discriminator receives them; log them if they may be shared."""
        self._columns = columns
        if augmented is None:
            return
        save_augmented(augmented, self._folder)
        if self._settings.shares_images:
            images = augmented.reshape(-1, *augmented.shape[2:])
            self._run.log_images("augmented", images, columns=augmented.shape[1])

    def on_ready(self, trainer: Trainer) -> None:
        """Print the size and the estimated duration of the training."""
        self._first_step = trainer.steps_done
        lines = plan_lines(plan_training(trainer), self._settings)
        advice = few_images_advice(trainer.settings, trainer.images)
        print_above_bars(*lines, *(f"  {sentence}" for sentence in advice))

    def on_epoch(self, epoch: EpochResult) -> None:
        """Write the samples of an epoch, and log its samples and metrics."""
        save_samples(epoch.number, epoch.samples, epoch.step_samples, self._folder)
        # Epochs that an earlier attempt finished or began take less time here, and have no speed.
        first = self._first_step
        images = 0 if first is None or epoch.first_step < first else epoch.images_seen
        self._run.log_steps(epoch.first_step, CURVES, epoch.statistics, images)
        self._run.log_metrics((VALIDATION_KID,), epoch.quality_by_epoch)
        report_epoch(epoch.quality_by_epoch)
        if len(epoch.samples):
            self._run.log_images("samples", epoch.samples, epoch.number, self._columns)
            self._last = epoch.samples

    def log_final_samples(self) -> None:
        """Log the samples of the last epoch at step 0, where MLflow opens the series."""
        if self._last is not None:
            self._run.log_images("samples", self._last, columns=self._columns)

    def log_results(self, history: History, models: Path, losses: Path) -> None:
        """Log the length of the training, its losses, and both networks; report its end.

        Args:
            history: of the finished training.
            models: folder of the networks.
            losses: CSV file of the losses.
        """
        report_epoch({}, is_last=True)
        details = history.details()
        lengths = ("epochs", "steps", "best_epoch")
        self._run.set_tags(**{name: str(details[name]) for name in lengths if name in details})
        generator = models / NETWORKS[0]
        self._run.log_model(generator, "atelier.gan.serialization:load_for_serving")
        self._run.log_artifact(losses)
        for name in NETWORKS:  # another training can start from them
            self._run.log_artifact(models / name, ARTIFACTS)


def _extension_text(trainer: Trainer, steps: int) -> str:
    """Return a sentence on the extension of a finished training of so many steps."""
    if steps < trainer.total_steps:
        return f"The finished training of {steps:,} steps is continued."
    text = f"The finished training has these {count_text(steps, 'step')} already"
    if not trainer.settings.steps:
        return f"{text}."
    return (
        f"{text}: train.steps is {steps}, so train.epochs has no effect; raise train.steps to"
        " train longer."
    )


def plan_lines(plan: TrainingPlan, settings: Settings) -> list[str]:
    """Return the size and the estimated duration of a training as a sentence and aligned lines.

    They name the images, and the networks of ``train.start_from``.
    """
    color = "color" if plan.channels == 3 else "gray"
    processes = f", {plan.processes} processes" if plan.processes > 1 else ""
    rows = {
        "images": f"{color}, {plan.image_size}x{plan.image_size} pixels,"
        f" from {redact_urls(settings.download.source_text)}",
        "batches": f"{plan.batch_size:,} images",
        "device": f"{device_name(plan.device)}{processes}, {plan.precision}",
        "networks": f"{plan.generator_parameters:,} parameters in the generator,"
        f" {plan.discriminator_parameters:,} in the discriminator",
    }
    for place in settings.train.start_from.values():
        rows["weights"] = f"the training starts from {redact_urls(place)}"
    return [f"  {_length_text(plan)}", *(f"  {name:<10}{text}" for name, text in rows.items())]


def _length_text(plan: TrainingPlan) -> str:
    """Return images, steps, epochs and time, e.g. ``360 images: 80 steps are 7 epochs, ...``."""
    verb = "is" if plan.steps == 1 else "are"
    length = (
        f"{count_text(plan.images, 'image')}: {count_text(plan.steps, 'step')} {verb}"
        f" {count_text(plan.epochs, 'epoch')}"
    )
    remaining = plan.steps - plan.steps_done
    if plan.steps_done:
        length += f", of which {count_text(remaining, 'step')} remain{'s' * (remaining == 1)}"
    if plan.seconds is not None:
        return f"{length}, about {duration_text(plan.seconds)} here"
    if remaining < MIN_ESTIMATED_STEPS:
        return f"{length}; the time is not estimated for fewer than {MIN_ESTIMATED_STEPS} steps"
    return f"{length}; the time is not estimated, because memory ran out during the measurement"
