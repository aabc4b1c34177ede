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

from ..support.painting import CPU, options, smooth


def _paint(**changes: object) -> tuple[Tensor, list[IterationLosses], list[str]]:
    vgg = build_vgg19("random", "average", 1, 6)
    told: list[IterationLosses] = []
    said: list[str] = []
    (painted,) = transfer_style(
        [smooth(1)], smooth(2), options(**changes), vgg, CPU, told.append, warn=said.append
    )
    return painted, told, said


def test_spectral_lbfgs_recovers_from_infinite_losses() -> None:
    """Beyond it nothing is a number; the bottom lies just before."""

    def cliff(pictures: Tensor) -> tuple[Tensor, Tensor]:
        away = pictures - 0.5
        loss = 0.5 * away.square().sum((1, 2, 3))
        beyond = pictures.amax((1, 2, 3)) > 0.52
        nothing = torch.where(beyond, torch.nan, 0.0)
        return loss + nothing, away + nothing.view(-1, 1, 1, 1)

    lbfgs = SpectralLbfgs(torch.full((2, 3, 4, 4), -9.0), cliff, first_step=30.0)
    lbfgs.advance(60)
    torch.testing.assert_close(lbfgs.image, torch.full((2, 3, 4, 4), 0.5), atol=1e-3, rtol=0)


def test_too_long_steps_are_shortened_with_a_warning() -> None:
    """The first one leads to where float32 ends."""
    painted, told, said = _paint(lr=1e12, clamp_to_range=False, iterations=150)
    assert len(said) >= 1
    assert all("non-finite loss" in sentence for sentence in said)
    assert painted.isfinite().all()
    assert min(step.total for step in told) < told[0].total


def test_stalled_optimization_warns_once_and_ends() -> None:
    _, told, said = _paint(
        optimizer="spectral_lbfgs", content_layers={1: 1.0}, style_layers={1: 0.0}
    )
    assert said == [
        "image 1 has stopped changing at iteration 12; the optimization restarts from its last"
        " good state with steps a tenth as long"
    ]
    assert told[-1].total == 0


@pytest.mark.parametrize("iterations", [20, 30, 39, 40])
def test_short_level_is_not_reported_as_stalled(iterations: int) -> None:
    """With learned weights the first leg may be of one evaluation, which is of the start itself."""
    _, _, said = _paint(optimizer="spectral_lbfgs", weights="imagenet", iterations=iterations)
    assert said == []


class _Fails(nn.ReLU):
    """A layer with a fault: where ``_when`` says so no gradient that is asked for is a number."""

    def __init__(self, when: Callable[[Tensor], Tensor | bool]) -> None:
        super().__init__()
        self._when = when

    def forward(self, features: Tensor) -> Tensor:
        known = super().forward(features)
        if not features.requires_grad:
            return known
        return torch.where(torch.as_tensor(self._when(features)), torch.nan, known)


def test_spectral_lbfgs_continues_after_a_non_finite_loss() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    passes = itertools.count(1)
    vgg[1] = _Fails(lambda features: next(passes) == 7)
    told: list[IterationLosses] = []
    said: list[str] = []
    settings = options(optimizer="spectral_lbfgs")
    given = ([smooth(1)], smooth(2), settings, vgg, CPU, told.append)
    (painted,) = transfer_style(*given, warn=said.append, labels=["ann-waves"])
    assert said == [
        "ann-waves had a non-finite loss by iteration 12; the step was undone, and the optimization"
        " continues with a shorter one"
    ]
    assert [step.iteration for step in told] == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert not torch.equal(painted, smooth(1))
    assert told[-1].total < told[5].total


def test_never_finite_loss_raises_an_error() -> None:
    with pytest.raises(AtelierError, match=r"loss of image 1 is (nan|inf) at iteration 1;"):
        _paint(optimizer="spectral_lbfgs", style_layers={1: 1e39})


def test_never_finite_level_raises_an_error() -> None:
    """Though a smaller one was."""
    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = _Fails(lambda features: features.shape[2] > 50)
    content = nn.functional.interpolate(smooth(1), 64, mode="bilinear")
    said: list[str] = []
    settings = options(optimizer="spectral_lbfgs", pyramid_levels=2, iterations=24)
    with pytest.raises(AtelierError, match="the loss of image 1 is nan at iteration 13; lower"):
        list(
            transfer_style(
                [content], smooth(2), settings, vgg, CPU, lambda step: None, warn=said.append
            )
        )
    assert said == []


def _two_of_which(when: Callable[[Tensor], Tensor | bool]) -> list[str]:
    """What is said while ann and bob are painted in one batch."""
    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = _Fails(when)
    said: list[str] = []
    settings = options(optimizer="spectral_lbfgs")
    given = ([smooth(1), smooth(3)], smooth(2), settings, vgg, CPU, lambda step: None)
    list(transfer_style(*given, batch_size=2, warn=said.append, labels=["ann", "bob"]))
    return said


def _second() -> Tensor:
    return torch.tensor([False, True]).view(-1, 1, 1, 1)


def test_warning_names_the_image_of_a_batch() -> None:
    passes = itertools.count(1)
    said = _two_of_which(lambda features: _second() & (next(passes) == 7))
    assert [sentence.split(" had ")[0] for sentence in said] == ["bob"]


def test_error_names_the_image_of_a_batch() -> None:
    """Though the other failed as well, once, and before."""
    passes = itertools.count(1)
    with pytest.raises(AtelierError, match="the loss of bob is nan at iteration 1;"):
        _two_of_which(lambda features: _second() | (next(passes) == 1))


@pytest.mark.parametrize(("what", "content", "style"), [("content", 3, 32), ("style", 32, 3)])
def test_image_too_small_for_the_layers_is_rejected(what: str, content: int, style: int) -> None:
    settings = options(style_layers={11: 1.0})
    vgg = build_vgg19("random", "average", 1, 11)
    pictures = [smooth(1)[..., :content], smooth(2)[..., :style]]
    sentence = rf"the {what} of 3 x 32 pixels is too small for layer 11 of VGG19, which needs 4"
    with pytest.raises(AtelierError, match=sentence):
        list(transfer_style(pictures[:1], pictures[1], settings, vgg, CPU, lambda step: None))


def test_empty_mask_is_rejected() -> None:
    vgg = build_vgg19("random", "average", 1, 6)
    look = Style((smooth(2),), (), (torch.zeros(1, 1, 32, 32),))
    with pytest.raises(AtelierError, match="entirely black"):
        list(transfer_style([smooth(1)], [look], options(), vgg, CPU, lambda step: None))


@pytest.mark.parametrize(("gb", "change"), [(0.0, "set"), (4.0, "lower")])
def test_out_of_memory_error_suggests_a_size(gb: float, change: str) -> None:
    """The machine has no room for a pass of more than so many pixels."""

    class Little(nn.ReLU):
        def forward(self, features: Tensor) -> Tensor:
            if features.shape[2] * features.shape[3] > 20**2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return super().forward(features)

    vgg = build_vgg19("random", "average", 1, 6)
    vgg[1] = Little()
    settings, style = (
        options(memory_gb=gb, optimizer="spectral_lbfgs"),
        smooth(2)[..., :16, :16],
    )
    sentence = f"a stylize.image_size of 18 fits, or {change} stylize.memory_gb to compute"
    with pytest.raises(AtelierError, match=sentence):
        list(transfer_style([smooth(1)], style, settings, vgg, CPU, lambda step: None))
