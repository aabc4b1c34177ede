"""Recovery from non-finite losses and stalled steps, and errors that end a style transfer."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from atelier.core.errors import AtelierError
from atelier.style.loss_log import IterationLosses
from atelier.style.objective import Style
from atelier.style.spectral_lbfgs import SpectralLbfgs
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19

from ..support.painting import RecordedEvents, options, smooth, tasks


def _stylize(**changes: object) -> tuple[Tensor, list[IterationLosses], list[str]]:
    vgg = build_vgg19("random", "average", 1, 6)
    losses: list[IterationLosses] = []
    warnings: list[str] = []
    (result,) = transfer_style(
        tasks([smooth(1)], smooth(2)),
        options(**changes),
        vgg,
        RecordedEvents(losses, warnings=warnings),
    )
    return result, losses, warnings


def test_spectral_lbfgs_recovers_from_infinite_losses() -> None:
    """Losses are NaN just beyond the minimum."""

    def quadratic_with_cliff(images: Tensor) -> tuple[Tensor, Tensor]:
        difference = images - 0.5
        loss = 0.5 * difference.square().sum((1, 2, 3))
        beyond = images.amax((1, 2, 3)) > 0.52
        nan_beyond = torch.where(beyond, torch.nan, 0.0)
        return loss + nan_beyond, difference + nan_beyond.view(-1, 1, 1, 1)

    lbfgs = SpectralLbfgs(torch.full((2, 3, 4, 4), -9.0), quadratic_with_cliff, first_step=30.0)
    lbfgs.advance(60)
    torch.testing.assert_close(lbfgs.image, torch.full((2, 3, 4, 4), 0.5), atol=1e-3, rtol=0)


def test_too_long_steps_are_shortened_with_a_warning() -> None:
    """The first step exceeds the range of float32."""
    result, losses, warnings = _stylize(lr=1e12, clamp_to_range=False, iterations=150)
    assert len(warnings) >= 1
    assert all("non-finite loss" in warning for warning in warnings)
    assert result.isfinite().all()
    assert min(iterate.total for iterate in losses) < losses[0].total


def test_stalled_optimization_warns_once_and_ends() -> None:
    _, losses, warnings = _stylize(
        optimizer="spectral_lbfgs", content_layers={1: 1.0}, style_layers={1: 0.0}
    )
    assert warnings == [
        "image 1 has stopped changing at iteration 12; the optimization restarts from its last"
        " good state with steps a tenth as long"
    ]
    assert losses[-1].total == 0


@pytest.mark.parametrize("iterations", [20, 30, 39, 40])
def test_short_level_is_not_reported_as_stalled(iterations: int) -> None:
    """With trained weights, the first level may only evaluate the initial image."""
    _, _, warnings = _stylize(optimizer="spectral_lbfgs", weights="imagenet", iterations=iterations)
    assert warnings == []


class _NanReLU(nn.ReLU):
    """ReLU that returns NaN where a condition is true, if a gradient is required."""

    def __init__(self, condition: Callable[[Tensor], Tensor | bool]) -> None:
        super().__init__()
        self._condition = condition

    def forward(self, features: Tensor) -> Tensor:
        output = super().forward(features)
        if not features.requires_grad:
            return output
        return torch.where(torch.as_tensor(self._condition(features)), torch.nan, output)


def test_spectral_lbfgs_continues_after_a_non_finite_loss() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    passes = itertools.count(1)
    vgg[1] = _NanReLU(lambda features: next(passes) == 7)
    losses: list[IterationLosses] = []
    warnings: list[str] = []
    settings = options(optimizer="spectral_lbfgs")
    events = RecordedEvents(losses, warnings=warnings)
    (result,) = transfer_style(tasks([smooth(1)], smooth(2), ["ann-waves"]), settings, vgg, events)
    assert warnings == [
        "ann-waves had a non-finite loss by iteration 12; the step was undone, and the optimization"
        " continues with a shorter one"
    ]
    assert [iterate.iteration for iterate in losses] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert not torch.equal(result, smooth(1))
    assert losses[-1].total < losses[5].total


def test_never_finite_loss_raises_an_error() -> None:
    with pytest.raises(AtelierError, match=r"loss of image 1 is (nan|inf) at iteration 1;"):
        _stylize(optimizer="spectral_lbfgs", style_layers={1: 1e39})


def test_never_finite_level_raises_an_error() -> None:
    """The smaller level has finite losses."""
    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = _NanReLU(lambda features: features.shape[2] > 50)
    content = nn.functional.interpolate(smooth(1), 64, mode="bilinear")
    warnings: list[str] = []
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=2, iterations=24)
    with pytest.raises(AtelierError, match="the loss of image 1 is nan at iteration 13; lower"):
        list(
            transfer_style(
                tasks([content], smooth(2)), settings, vgg, RecordedEvents(warnings=warnings)
            )
        )
    assert warnings == []


def _warnings_of_batch(condition: Callable[[Tensor], Tensor | bool]) -> list[str]:
    """Return the warnings while ann and bob are stylized in one batch."""
    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = _NanReLU(condition)
    warnings: list[str] = []
    settings = options(optimizer="spectral_lbfgs")
    both = tasks([smooth(1), smooth(3)], smooth(2), ["ann", "bob"])
    list(transfer_style(both, settings, vgg, RecordedEvents(warnings=warnings), batch_size=2))
    return warnings


def _second_image() -> Tensor:
    return torch.tensor([False, True]).view(-1, 1, 1, 1)


def test_warning_names_the_image_of_a_batch() -> None:
    passes = itertools.count(1)
    warnings = _warnings_of_batch(lambda features: _second_image() & (next(passes) == 7))
    assert [warning.split(" had ")[0] for warning in warnings] == ["bob"]


def test_error_names_the_image_of_a_batch() -> None:
    """The first pass also fails for the other image, which recovers."""
    passes = itertools.count(1)
    with pytest.raises(AtelierError, match="the loss of bob is nan at iteration 1;"):
        _warnings_of_batch(lambda features: _second_image() | (next(passes) == 1))


@pytest.mark.parametrize(("role", "content", "style"), [("content", 3, 32), ("style", 32, 3)])
def test_image_too_small_for_the_layers_is_rejected(role: str, content: int, style: int) -> None:
    settings = options(style_layers={11: 1.0})
    vgg = build_vgg19("random", "average", 1, 11)
    images = [smooth(1)[..., :content], smooth(2)[..., :style]]
    sentence = rf"the {role} of 3 x 32 pixels is too small for layer 11 of VGG19, which needs 4"
    with pytest.raises(AtelierError, match=sentence):
        list(transfer_style(tasks(images[:1], images[1]), settings, vgg))


def test_empty_mask_is_rejected() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    style = Style((smooth(2),), (), (torch.zeros(1, 1, 32, 32),))
    with pytest.raises(AtelierError, match="entirely black"):
        list(transfer_style(tasks([smooth(1)], [style]), options(), vgg))


@pytest.mark.parametrize(("gb", "verb"), [(0.0, "set"), (4.0, "lower")])
def test_out_of_memory_error_suggests_a_size(gb: float, verb: str) -> None:
    """Memory suffices for a pass of 20 x 20 pixels."""

    class LimitedMemory(nn.ReLU):
        def forward(self, features: Tensor) -> Tensor:
            if features.shape[2] * features.shape[3] > 20**2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(features)

    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = LimitedMemory()
    settings, style = (
        options(memory_gb=gb, optimizer="spectral_lbfgs"),
        smooth(2)[..., :16, :16],
    )
    sentence = f"a stylize.image_size of 18 fits, or {verb} stylize.memory_gb to compute"
    with pytest.raises(AtelierError, match=sentence):
        list(transfer_style(tasks([smooth(1)], style), settings, vgg))
