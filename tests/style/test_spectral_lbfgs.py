"""Spectral L-BFGS: closed forms, descent, and independence of images in a batch."""

import pytest
import torch
from torch import Tensor

from atelier.style.spectral_lbfgs import SpectralLbfgs, Spectrum

from ..support.arrays import normal_tensor


class QuadraticLoss:
    """Half the weighted squared distance from a minimum; stores its losses."""

    def __init__(self, weights: Tensor, minimum: Tensor) -> None:
        self.weights, self.minimum = weights, minimum
        self.losses: list[Tensor] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        difference = images - self.minimum
        loss = 0.5 * (self.weights * difference.square()).sum((1, 2, 3))
        self.losses.append(loss)
        return loss, self.weights * difference


@pytest.fixture
def quadratic_loss() -> QuadraticLoss:
    return QuadraticLoss(normal_tensor(1, 2, 3, 6, 8).exp(), normal_tensor(2, 2, 3, 6, 8))


def test_spectral_lbfgs_finds_the_minimum_of_a_quadratic(quadratic_loss: QuadraticLoss) -> None:
    lbfgs = SpectralLbfgs(torch.zeros(2, 3, 6, 8), quadratic_loss)
    lbfgs.advance(120)
    torch.testing.assert_close(lbfgs.image, quadratic_loss.minimum, atol=1e-3, rtol=0)


def test_number_of_evaluations_is_exact(quadratic_loss: QuadraticLoss) -> None:
    lbfgs = SpectralLbfgs(torch.zeros(2, 3, 6, 8), quadratic_loss)
    for evaluations in (1, 4, 2):
        lbfgs.advance(evaluations)
    assert len(quadratic_loss.losses) == 7


def test_first_evaluation_is_of_the_initial_image(quadratic_loss: QuadraticLoss) -> None:
    start = normal_tensor(3, 2, 3, 6, 8)
    lbfgs = SpectralLbfgs(start, quadratic_loss)
    lbfgs.advance(1)
    assert torch.equal(lbfgs.image, start)


def test_second_step_is_exact_for_isotropic_quadratics() -> None:
    minimum = normal_tensor(2, 1, 3, 4, 4)
    lbfgs = SpectralLbfgs(
        torch.zeros_like(minimum), QuadraticLoss(torch.full_like(minimum, 7.0), minimum)
    )
    lbfgs.advance(3)
    torch.testing.assert_close(lbfgs.image, minimum, atol=1e-5, rtol=1e-5)


def test_spectral_lbfgs_beats_torch_lbfgs_if_curvature_differs_by_band() -> None:
    """Low frequencies have a small curvature, as in the loss of a style transfer."""
    minimum = normal_tensor(2, 1, 3, 32, 32)
    spectrum = Spectrum(minimum)
    curvatures = torch.logspace(-2, 2, spectrum.bands).expand(1, 3, -1)

    def anisotropic_loss(images: Tensor) -> tuple[Tensor, Tensor]:
        difference = images - minimum
        gradient = spectrum.inverse(spectrum.scale_bands(spectrum.forward(difference), curvatures))
        return 0.5 * (difference * gradient).sum((1, 2, 3)), gradient

    lbfgs = SpectralLbfgs(torch.zeros_like(minimum), anisotropic_loss)
    lbfgs.advance(40)
    image = torch.zeros_like(minimum).requires_grad_()
    torch_lbfgs = torch.optim.LBFGS(
        [image], max_iter=60, max_eval=60, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip

    def closure() -> float:
        loss, image.grad = anisotropic_loss(image.detach())
        return float(loss)

    torch_lbfgs.step(closure)
    assert anisotropic_loss(lbfgs.image)[0] < anisotropic_loss(image.detach())[0]


def test_image_never_gets_worse_on_a_rough_loss() -> None:
    def rough_loss(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            values = leaf.square() + torch.sin(9 * leaf)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().sum((1, 2, 3)), gradient

    lbfgs = SpectralLbfgs(normal_tensor(4, 2, 3, 5, 5), rough_loss)
    losses = []
    for _ in range(40):
        lbfgs.advance(1)
        losses.append(rough_loss(lbfgs.image)[0])
    loss_history = torch.stack(losses)
    assert (loss_history.diff(dim=0) <= 0).all()
    assert (loss_history[-1] < loss_history[0] - 10).all()


def test_images_of_a_batch_are_independent(quadratic_loss: QuadraticLoss) -> None:
    """Each image of a batch follows the path of that image alone."""
    batch = SpectralLbfgs(torch.zeros(2, 3, 6, 8), quadratic_loss)
    batch.advance(12)
    for number in range(2):
        selected = slice(number, number + 1)
        own_loss = QuadraticLoss(quadratic_loss.weights[selected], quadratic_loss.minimum[selected])
        single = SpectralLbfgs(torch.zeros(1, 3, 6, 8), own_loss)
        single.advance(12)
        torch.testing.assert_close(batch.image[selected], single.image, rtol=1e-5, atol=1e-6)


def test_image_at_the_minimum_is_unchanged(quadratic_loss: QuadraticLoss) -> None:
    lbfgs = SpectralLbfgs(quadratic_loss.minimum.clone(), quadratic_loss)
    lbfgs.advance(5)
    assert torch.equal(lbfgs.image, quadratic_loss.minimum)


def test_restored_state_continues_bit_exactly(quadratic_loss: QuadraticLoss) -> None:
    uninterrupted = SpectralLbfgs(torch.zeros(2, 3, 6, 8), quadratic_loss)
    uninterrupted.advance(30)
    for parts in ((0, 30), (1, 29), (7, 23), (25, 5)):
        first = SpectralLbfgs(torch.zeros(2, 3, 6, 8), quadratic_loss)
        first.advance(parts[0])
        second = SpectralLbfgs(first.image, quadratic_loss)
        second.restore(first.state())
        second.advance(parts[1])
        assert torch.equal(second.image, uninterrupted.image)
