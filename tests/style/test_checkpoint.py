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

from ..support.painting import CPU, options, smooth

ITERATIONS = 60


PLAIN = {"lr": 1.0, "iterations": ITERATIONS}


def named(changes: dict[str, object]) -> str:
    """Name a parameter by its values."""
    return "-".join(str(value) for value in changes.values())


def slow(changes: dict[str, object]) -> Any:
    """Leave a variant of an optimizer that is tried anyway to `make test-all`."""
    return pytest.param(changes, marks=pytest.mark.slow, id=named(changes))


@pytest.fixture(
    params=[
        {**PLAIN, "optimizer": "lbfgs"},
        {**PLAIN, "optimizer": "adam", "lr": 0.02},
        {**PLAIN, "optimizer": "spectral_lbfgs"},
        slow({**PLAIN, "optimizer": "spectral_lbfgs", "weights": "imagenet"}),
        {**PLAIN, "optimizer": "spectral_lbfgs", "precision": "bf16"},
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
    ids=named,
)
def settings(request: pytest.FixtureRequest) -> StylizeSettings:
    return options(**request.param)


def painted(
    settings: StylizeSettings, attempts: TransferCheckpoints | None = None
) -> tuple[list[Tensor], list[IterationLosses]]:
    """Three pictures; the first two share VGG19's passes where the optimizer can."""
    vgg = build_vgg19("random", "average", seed=1, deepest=6)
    told: list[IterationLosses] = []
    contents = [smooth(1), smooth(3), smooth(4)[:, :, 8:]]
    if settings.pyramid_levels > 1:
        contents = [nn.functional.interpolate(one, scale_factor=2.0) for one in contents]
    made = transfer_style(contents, smooth(2), settings, vgg, CPU, told.append, attempts, 2)
    return list(made), told


@cache
def undisturbed(settings: str) -> tuple[list[Tensor], list[IterationLosses]]:
    """The pictures that nobody stops; once for all tests of these settings."""
    return painted(StylizeSettings.model_validate_json(settings))


def test_resume_after_every_chunk_is_bit_exact(settings: StylizeSettings, tmp_path: Path) -> None:
    whole, told = undisturbed(settings.model_dump_json())
    attempts = 0
    while True:
        keep = TransferCheckpoints(Checkpoints(tmp_path), lambda: True, 60.0)
        try:
            result, again = painted(settings, keep)
            break
        except KeyboardInterrupt:
            attempts += 1
    assert attempts >= 4
    assert all(torch.equal(one, other) for one, other in zip(whole, result, strict=True))
    assert again == told


def test_resume_after_kill_is_bit_exact(settings: StylizeSettings, tmp_path: Path) -> None:
    whole, told = undisturbed(settings.model_dump_json())

    class KilledError(Exception):
        pass

    class Mortal(TransferCheckpoints):
        parts = 0

        def save(
            self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
        ) -> None:
            super().save(picture, evaluations, state, finished)
            self.parts += 1
            if self.parts == 4:
                raise KilledError

    with pytest.raises(KilledError):
        painted(settings, Mortal(Checkpoints(tmp_path), interval_seconds=0))
    newest = max(tmp_path.glob("state-*"))
    newest.write_bytes(newest.read_bytes()[:-9])  # the last one is damaged: the one before does
    result, again = painted(settings, TransferCheckpoints(Checkpoints(tmp_path)))
    assert all(torch.equal(one, other) for one, other in zip(whole, result, strict=True))
    assert again == told


def test_stalled_image_is_saved_as_finished(tmp_path: Path) -> None:
    """Where no step helps it ends before its iterations do, and is not painted again."""
    settings = options(
        optimizer="spectral_lbfgs", content_layers={1: 1.0}, style_layers={1: 0.0}, iterations=100
    )
    whole, told = painted(settings, TransferCheckpoints(Checkpoints(tmp_path)))
    assert len(told) < 3 * 100
    assert len(list(tmp_path.glob("picture-*"))) == 2  # one of two that share VGG19's passes

    class Again(TransferCheckpoints):
        saved = 0

        def save(self, *state: object) -> None:
            self.saved += 1

    keep = Again(Checkpoints(tmp_path))
    result, again = painted(settings, keep)
    assert keep.saved == 0
    assert all(torch.equal(one, other) for one, other in zip(whole, result, strict=True))
    assert again == told
