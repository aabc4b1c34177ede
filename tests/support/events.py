"""Observer that stores what it receives."""

from atelier.core.progress import Progress
from atelier.gan.fit import TrainingEvents
from atelier.gan.history import EpochResult


class RecordedEvents(TrainingEvents):
    """Lists of progress, warnings and epochs, in the order of their calls."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.warnings: list[str] = []
        self.epochs: list[EpochResult] = []

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)

    def warn(self, *warnings: str) -> None:
        self.warnings += warnings

    def on_epoch(self, epoch: EpochResult) -> None:
        self.epochs.append(epoch)
