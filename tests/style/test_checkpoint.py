"""A resumed style transfer gives the same result as an uninterrupted one."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.core.checkpoints import Checkpoints
from atelier.core.settings import StylizeSettings
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.loss_log import IterationLosses
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import RecordedEvents, options, smooth, tasks

ITERATIONS = 40
PLAIN = {"lr": 1.0, "iterations": ITERATIONS}


def parameter_name(changes: dict[str, object]) -> str:
    """Return the name of a parameter from its values."""
    return "-".join(str(value) for value in changes.values())


def slow(changes: dict[str, object]) -> Any:
    """Run a further variant of an optimizer only in `make test-all`."""
    return pytest.param(changes, marks=pytest.mark.slow, id=parameter_name(changes))


@pytest.fixture(
    params=[
        {**PLAIN, "optimizer": "lbfgs"},
        slow({**PLAIN, "optimizer": "adam", "lr": 0.02}),
        slow({**PLAIN, "optimizer": "spectral_lbfgs"}),
        slow({**PLAIN, "optimizer": "spectral_lbfgs", "weights": "imagenet"}),
        slow({**PLAIN, "optimizer": "spectral_lbfgs", "precision": "bf16"}),
        slow({**PLAIN, "optimizer": "spectral_lbfgs", "init": "noise"}),
        slow({**PLAIN, "optimizer": "lbfgs", "precision": "bf16"}),
        slow({**PLAIN, "optimizer": "lbfgs", "style_layers": {6: 0.5, 1: 1.0}}),
        slow({**PLAIN, "optimizer": "lbfgs", "clamp_to_range": False}),
        {**PLAIN, "optimizer": "adam", "lr": 0.02, "iterate_averaging": 0.9},
        slow(
            {
                **PLAIN,
                "optimizer": "adam",
                "lr": 0.02,
                "iterate_averaging": 0.9,
                "pyramid_levels": 2,
            }
        ),
        {**PLAIN, "optimizer": "spectral_lbfgs", "pyramid_levels": 2, "iterations": 30},
        slow({**PLAIN, "optimizer": "spectral_lbfgs", "pyramid_levels": 3, "memory_gb": 0.011}),
        {**PLAIN, "optimizer": "spectral_lbfgs", "preserve_color": "luminance", "tv_weight": 0.1},
    ],
    ids=parameter_name,
)
def settings(request: pytest.FixtureRequest) -> StylizeSettings:
    return options(**request.param)


def stylize(
    settings: StylizeSettings, checkpointer: TransferCheckpoints | None = None
) -> tuple[list[Tensor], list[IterationLosses]]:
    """Stylize three images; the first two share VGG19 passes if the optimizer supports it."""
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    losses: list[IterationLosses] = []
    contents = [smooth(1), smooth(3), smooth(4)[:, :, 8:]]
    if settings.pyramid_levels > 1:
        contents = [nn.functional.interpolate(content, scale_factor=2.0) for content in contents]
    results = transfer_style(
        tasks(contents, smooth(2)),
        settings,
        vgg,
        RecordedEvents(losses),
        checkpointer,
        batch_size=2,
    )
    return list(results), losses


@cache
def stylize_uninterrupted(settings: str) -> tuple[list[Tensor], list[IterationLosses]]:
    """Return images and losses without interruption; cached for all tests of these settings."""
    return stylize(StylizeSettings.model_validate_json(settings))


@pytest.mark.slow
def test_resume_after_every_chunk_is_bit_exact(settings: StylizeSettings, tmp_path: Path) -> None:
    expected, expected_losses = stylize_uninterrupted(settings.model_dump_json())
    interruptions = 0
    while True:
        checkpointer = TransferCheckpoints(Checkpoints(tmp_path), lambda: True, 60.0)
        try:
            images, losses = stylize(settings, checkpointer)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 4
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
    assert losses == expected_losses


def test_resume_after_kill_is_bit_exact(settings: StylizeSettings, tmp_path: Path) -> None:
    expected, expected_losses = stylize_uninterrupted(settings.model_dump_json())

    class KilledError(Exception):
        pass

    class KilledCheckpoints(TransferCheckpoints):
        saved_states = 0

        def save(
            self, image: int, evaluations: int, state: dict[str, Tensor], finished: bool
        ) -> None:
            super().save(image, evaluations, state, finished)
            self.saved_states += 1
            if self.saved_states == 4:
                raise KilledError

    with pytest.raises(KilledError):
        stylize(settings, KilledCheckpoints(Checkpoints(tmp_path), interval_seconds=0))
    newest = max(tmp_path.glob("state-*"))
    # The newest state is damaged, so the one before it is used.
    newest.write_bytes(newest.read_bytes()[:-9])
    images, losses = stylize(settings, TransferCheckpoints(Checkpoints(tmp_path)))
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
    assert losses == expected_losses


def test_stalled_image_is_saved_as_finished(tmp_path: Path) -> None:
    """A stalled image ends before the last iteration and is not optimized again."""
    settings = options(
        optimizer="spectral_lbfgs", content_layers={1: 1.0}, style_layers={1: 0.0}, iterations=100
    )
    expected, expected_losses = stylize(settings, TransferCheckpoints(Checkpoints(tmp_path)))
    assert len(expected_losses) < 3 * 100
    # The two images that share VGG19 passes have one part.
    assert len(list(tmp_path.glob("picture-*"))) == 2

    class CountingCheckpoints(TransferCheckpoints):
        save_count = 0

        def save(self, *state: object) -> None:
            self.save_count += 1

    checkpointer = CountingCheckpoints(Checkpoints(tmp_path))
    images, losses = stylize(settings, checkpointer)
    assert checkpointer.save_count == 0
    assert all(torch.equal(image, other) for image, other in zip(images, expected, strict=True))
    assert losses == expected_losses
