"""Spectral L-BFGS: closed forms, descent, and independence of images in a batch."""

import pytest
import torch
from torch import Tensor

from atelier.style.spectral_lbfgs import SpectralLbfgs, Spectrum


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Bowl:
    """Half the weighted squared distance from a goal; counts and remembers its losses."""

    def __init__(self, weights: Tensor, goal: Tensor) -> None:
        self.weights, self.goal = weights, goal
        self.losses: list[Tensor] = []

    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        away = pictures - self.goal
        loss = 0.5 * (self.weights * away.square()).sum((1, 2, 3))
        self.losses.append(loss)
        return loss, self.weights * away


@pytest.fixture
def bowl() -> Bowl:
    return Bowl(_noise(1, 2, 3, 6, 8).exp(), _noise(2, 2, 3, 6, 8))


def test_spectral_lbfgs_finds_the_minimum_of_a_quadratic(bowl: Bowl) -> None:
    lbfgs = SpectralLbfgs(torch.zeros(2, 3, 6, 8), bowl)
    lbfgs.advance(120)
    torch.testing.assert_close(lbfgs.image, bowl.goal, atol=1e-3, rtol=0)


def test_number_of_evaluations_is_exact(bowl: Bowl) -> None:
    lbfgs = SpectralLbfgs(torch.zeros(2, 3, 6, 8), bowl)
    for evaluations in (1, 4, 2):
        lbfgs.advance(evaluations)
    assert len(bowl.losses) == 7


def test_first_evaluation_is_of_the_initial_image(bowl: Bowl) -> None:
    start = _noise(3, 2, 3, 6, 8)
    lbfgs = SpectralLbfgs(start, bowl)
    lbfgs.advance(1)
    assert torch.equal(lbfgs.image, start)


def test_second_step_is_exact_for_isotropic_quadratics() -> None:
    goal = _noise(2, 1, 3, 4, 4)
    lbfgs = SpectralLbfgs(torch.zeros_like(goal), Bowl(torch.full_like(goal, 7.0), goal))
    lbfgs.advance(3)
    torch.testing.assert_close(lbfgs.image, goal, atol=1e-5, rtol=1e-5)


def test_different_curvature_of_bands_needs_fewer_evaluations_than_torch() -> None:
    """Long waves lie in a shallow valley, as light does in a painting's loss."""
    goal = _noise(2, 1, 3, 32, 32)
    spectrum = Spectrum(goal)
    bend = torch.logspace(-2, 2, spectrum.bands).expand(1, 3, -1)

    def valley(pictures: Tensor) -> tuple[Tensor, Tensor]:
        away = pictures - goal
        gradient = spectrum.inverse(spectrum.scale_bands(spectrum.forward(away), bend))
        return 0.5 * (away * gradient).sum((1, 2, 3)), gradient

    ours = SpectralLbfgs(torch.zeros_like(goal), valley)
    ours.advance(40)
    canvas = torch.zeros_like(goal).requires_grad_()
    theirs = torch.optim.LBFGS(
        [canvas], max_iter=60, max_eval=60, history_size=20, line_search_fn="strong_wolfe",
        tolerance_grad=0, tolerance_change=0,
    )  # fmt: skip

    def closure() -> float:
        loss, canvas.grad = valley(canvas.detach())
        return float(loss)

    theirs.step(closure)
    assert valley(ours.image)[0] < valley(canvas.detach())[0]


def test_image_never_gets_worse_on_a_rough_loss() -> None:
    def rough(pictures: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = pictures.clone().requires_grad_()
            ground = leaf.square() + torch.sin(9 * leaf)
            (gradient,) = torch.autograd.grad(ground.sum(), leaf)
        return ground.detach().sum((1, 2, 3)), gradient

    lbfgs = SpectralLbfgs(_noise(4, 2, 3, 5, 5), rough)
    reached = []
    for _ in range(40):
        lbfgs.advance(1)
        reached.append(rough(lbfgs.image)[0])
    path = torch.stack(reached)
    assert (path.diff(dim=0) <= 0).all()
    assert (path[-1] < path[0] - 10).all()


def test_images_of_a_batch_are_independent(bowl: Bowl) -> None:
    """Of numbers that are summed alike alone and together, each goes its way to the bit."""
    together = SpectralLbfgs(torch.zeros(2, 3, 6, 8), bowl)
    together.advance(12)
    for number in range(2):
        one = slice(number, number + 1)
        own = Bowl(bowl.weights[one], bowl.goal[one])
        alone = SpectralLbfgs(torch.zeros(1, 3, 6, 8), own)
        alone.advance(12)
        torch.testing.assert_close(together.image[one], alone.image, rtol=1e-5, atol=1e-6)


def test_image_at_the_minimum_is_unchanged(bowl: Bowl) -> None:
    lbfgs = SpectralLbfgs(bowl.goal.clone(), bowl)
    lbfgs.advance(5)
    assert torch.equal(lbfgs.image, bowl.goal)


def test_restored_state_continues_bit_exactly(bowl: Bowl) -> None:
    whole = SpectralLbfgs(torch.zeros(2, 3, 6, 8), bowl)
    whole.advance(30)
    for parts in ((0, 30), (1, 29), (7, 23), (25, 5)):
        first = SpectralLbfgs(torch.zeros(2, 3, 6, 8), bowl)
        first.advance(parts[0])
        second = SpectralLbfgs(first.image, bowl)
        second.restore(first.state())
        second.advance(parts[1])
        assert torch.equal(second.image, whole.image)
