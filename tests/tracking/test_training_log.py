"""Lines that the train stage prints before the first step, and what it logs of epochs."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from atelier.core.checkpoints import Checkpoints
from atelier.core.progress import Progress
from atelier.core.settings import Settings
from atelier.gan.fit import run_training
from atelier.gan.resume_rollback import Resumption
from atelier.gan.trainer import Trainer
from atelier.gan.training_plan import TrainingPlan
from atelier.tracking.outbox import Outbox, entries
from atelier.tracking.run import SPEED, Run
from atelier.tracking.training_log import TrainingLog, plan_lines

from ..support.execution import dead_process

PLAN = TrainingPlan(
    images=1600,
    image_size=64,
    channels=3,
    steps=2050,
    steps_done=0,
    epochs=41,
    batch_size=32,
    device=torch.device("cpu"),
    precision="bf16",
    processes=1,
    generator_parameters=432_000,
    discriminator_parameters=1_234_567,
    seconds=350.0,
)


def test_size_and_duration_are_aligned_lines(make_settings: Callable[..., Settings]) -> None:
    assert plan_lines(PLAN, make_settings()) == [
        "  1,600 images: 2,050 steps are 41 epochs, about 6 minutes here",
        "  images    color, 64x64 pixels, from the built-in sample",
        "  batches   32 images",
        "  device    CPU with 1 thread, bf16",
        "  networks  432,000 parameters in the generator, 1,234,567 in the discriminator",
    ]


def test_start_from_an_earlier_training_is_printed(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={"start_from": {"celeba": "data/weights/celeba"}})
    assert plan_lines(PLAN, settings)[4:] == [
        "  networks  432,000 parameters in the generator, 1,234,567 in the discriminator",
        "  weights   the training starts from data/weights/celeba",
    ]


def test_length_is_one_sentence(make_settings: Callable[..., Settings]) -> None:
    plan = replace(PLAN, images=360, batch_size=30, steps=2000, epochs=167)
    sentence, *_ = plan_lines(plan, make_settings())
    assert sentence == "  360 images: 2,000 steps are 167 epochs, about 6 minutes here"
    plan = replace(PLAN, images=2, steps=1, epochs=1, seconds=None)
    sentence, *_ = plan_lines(plan, make_settings())
    assert sentence.startswith("  2 images: 1 step is 1 epoch; the time is not estimated for")


def test_resumed_training_prints_the_remaining_steps(
    make_settings: Callable[..., Settings],
) -> None:
    plan = replace(PLAN, steps_done=2000, seconds=None, channels=1, processes=2)
    lines = plan_lines(plan, make_settings())
    assert lines[0] == (
        "  1,600 images: 2,050 steps are 41 epochs, of which 50 steps remain;"
        " the time is not estimated for fewer than 200 steps"
    )
    assert lines[1].startswith("  images    gray, 64x64")
    assert lines[3] == "  device    CPU with 1 thread, 2 processes, bf16"


def test_missing_estimate_of_a_long_training_is_explained(
    make_settings: Callable[..., Settings],
) -> None:
    lines = plan_lines(replace(PLAN, seconds=None), make_settings())
    assert lines[0] == (
        "  1,600 images: 2,050 steps are 41 epochs; the time is not estimated, because memory ran"
        " out during the measurement"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"source": "folder", "folders": {"faces": "/home/me/faces"}}, "folder /home/me/faces"),
        ({"source": "folder", "folders": {"a": "/a", "b": "/b"}}, "folders /a, /b"),
        (
            {
                "source": "archive",
                "archive": {"location": "https://me:secret@x.org/f.zip?key=1", "sha256": ""},
            },
            "https://x.org/f.zip",
        ),
        ({"source": "kaggle", "kaggle": {"handle": "me/faces"}}, "Kaggle, me/faces"),
        ({"source": "torchvision"}, "MNIST"),
    ],
)
def test_source_has_no_password(
    changes: dict[str, object], text: str, make_settings: Callable[..., Settings]
) -> None:
    lines = plan_lines(PLAN, make_settings(download=changes))
    assert lines[1] == f"  images    color, 64x64 pixels, from {text}"


def test_only_sampled_and_completely_timed_epochs_are_logged(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    small = {"epochs": 3, "batch_size": 4, "latent_size": 4, "sample_every_epochs": 2}
    channels = {"generator_channels": 2, "discriminator_channels": 2, "precision": "fp32"}
    settings = make_settings(train={**small, **channels})
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)

    reports: list[Progress] = []

    def attempt(number: int, stop_at: int) -> Path:
        """Train until a step, and return the folder of the entries."""
        outbox = Outbox(tmp_path, dead_process(number), "train", experiment="faces", parameters={})
        folder = tmp_path / f"samples-{number}"
        folder.mkdir()
        run = Run(outbox)
        log = TrainingLog(run, folder, reports.append, settings)
        trainer = Trainer(settings.train, pixels, torch.device("cpu"), events=log)
        saved = Checkpoints(tmp_path / "checkpoints")
        with suppress(KeyboardInterrupt):
            run_training(trainer, log, Resumption(saved, lambda: trainer.steps_done == stop_at))
        log.log_final_samples()
        run.end("FINISHED")
        return outbox.folder

    attempt(1, stop_at=5)
    found = [entry for entry, _ in entries(attempt(2, stop_at=-1))]
    pictures = [entry["step"] for entry in found if entry["kind"] == "picture"]
    assert pictures == [2, 3, 0]
    speeds = [e["rows"][0][0] for e in found if e["kind"] == "metrics" and e["names"] == [SPEED]]
    assert speeds == [9], "the first attempt began the epoch that ends with step 6"
    assert (reports[0].done, reports[0].initial) == (1, 0)
    assert [(report.done, report.initial) for report in reports if report.note] == [
        *((3, 0), (6, 5), (9, 5)),
    ]


def test_size_and_advice_are_printed_before_the_first_step(
    make_settings: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"generator_channels": 2, "discriminator_channels": 2, "precision": "fp32"}
    settings = make_settings(train={"epochs": 1, "batch_size": 4, "latent_size": 4, **small})
    pixels = np.zeros((12, 16, 16, 3), np.uint8)
    log = TrainingLog(Run(None), tmp_path, lambda _progress: None, settings)
    log.on_ready(Trainer(settings.train, pixels, torch.device("cpu")))
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("  12 images: 3 steps are 1 epoch; the time is not estimated")
    assert last == (
        "  12 images are few for a training without augmentation;"
        " set train.augment to [translation]."
    )
