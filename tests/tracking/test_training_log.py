"""Lines that the train stage prints before the first step."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from atelier.core.settings import Settings
from atelier.gan.training_plan import TrainingPlan
from atelier.tracking.training_log import plan_lines

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
    assert plan_lines(PLAN, make_settings().download) == [
        "  1,600 images: 2,050 steps are 41 epochs, about 6 minutes here",
        "  images    color, 64x64 pixels, from the built-in sample",
        "  batches   32 images",
        "  device    CPU with 1 thread, bf16",
        "  networks  432,000 parameters in the generator, 1,234,567 in the discriminator",
    ]


def test_resumed_training_prints_the_remaining_steps(
    make_settings: Callable[..., Settings],
) -> None:
    plan = replace(PLAN, steps_done=2000, seconds=None, channels=1, processes=2)
    lines = plan_lines(plan, make_settings().download)
    assert lines[0] == (
        "  1,600 images: 2,050 steps are 41 epochs, of which 50 steps remain;"
        " the time is not estimated for fewer than 200 steps"
    )
    assert lines[1].startswith("  images    gray, 64x64")
    assert lines[3] == "  device    CPU with 1 thread, 2 processes, bf16"


def test_missing_estimate_of_a_long_training_is_explained(
    make_settings: Callable[..., Settings],
) -> None:
    lines = plan_lines(replace(PLAN, seconds=None), make_settings().download)
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
    lines = plan_lines(PLAN, make_settings(download=changes).download)
    assert lines[1] == f"  images    color, 64x64 pixels, from {text}"
