"""Batched L-BFGS."""

from collections.abc import Callable
from itertools import islice

import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der
from torch import Tensor

from atelier.latents.lbfgs import Minima, minimize


def random(*shape: int, seed: int = 1) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=stream, dtype=torch.float64)


def last(loss: Callable[[Tensor], Tensor], start: Tensor, evaluations: int) -> Minima:
    return list(islice(minimize(loss, start), evaluations))[-1]


def rosenbrock(points: Tensor) -> Tensor:
    left, right = points[:, :-1], points[:, 1:]
    return (100 * (right - left.square()).square() + (1 - left).square()).sum(1)


def quadratics(rows: int, size: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return one quadratic for each row, of a condition of 1000, and their minima."""
    bases = torch.linalg.qr(random(rows, size, size, seed=2)).Q
    eigenvalues = torch.logspace(0, 3, size, dtype=torch.float64)
    hessians = bases @ (eigenvalues[:, None] * bases.mT)
    minima = random(rows, size, seed=3)

    def loss(points: Tensor) -> Tensor:
        steps = points - minima[: len(points)]
        return torch.einsum("bi,bij,bj->b", steps, hessians[: len(points)], steps) / 2

    return loss, minima


def test_quadratics_reach_their_minima() -> None:
    loss, minima = quadratics(4, 12)
    result = last(loss, random(4, 12), 150)
    torch.testing.assert_close(result.points, minima, atol=1e-5, rtol=0)
    assert (result.losses < 1e-9).all()


def test_rosenbrock_needs_about_as_many_evaluations_as_scipy() -> None:
    start = random(4, 3)  # functions of more than three variables have a second minimum
    references = [
        scipy_minimize(rosen, row.numpy(), jac=rosen_der, method="L-BFGS-B", tol=1e-10)
        for row in start
    ]
    result = last(rosenbrock, start, 2 * max(reference.nfev for reference in references))
    assert (result.losses < 1e-8).all()
    torch.testing.assert_close(result.points, torch.ones_like(start), atol=1e-3, rtol=0)


def test_rows_are_independent() -> None:
    start = random(5, 6)
    together = last(rosenbrock, start, 25)
    for number, row in enumerate(start):
        alone = last(rosenbrock, row[None], 25)
        torch.testing.assert_close(alone.points[0], together.points[number], atol=1e-9, rtol=1e-9)


def test_loss_of_each_row_never_increases() -> None:
    losses = torch.stack([m.losses for m in islice(minimize(rosenbrock, random(5, 6)), 60)])
    assert (losses[1:] <= losses[:-1] * (1 + 2e-6)).all()
    assert (losses[-1] < losses[0] / 100).all()


def test_points_have_the_reported_losses() -> None:
    for minima in islice(minimize(rosenbrock, random(3, 4)), 20):
        torch.testing.assert_close(rosenbrock(minima.points), minima.losses)


def test_first_step_has_the_requested_size() -> None:
    start = random(2, 9)
    trials: list[Tensor] = []

    def loss(points: Tensor) -> Tensor:
        trials.append(points.detach())
        return points.square().sum(1)

    list(islice(minimize(loss, start, first_step=0.25), 2))
    torch.testing.assert_close(trials[0], start)
    steps = trials[1] - start
    torch.testing.assert_close(steps.square().mean(1).sqrt(), torch.full((2,), 0.25).double())
    torch.testing.assert_close(
        steps / steps.norm(dim=1)[:, None], -start / start.norm(dim=1)[:, None]
    )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_step_to_a_loss_that_is_not_finite_is_shortened(bad: float) -> None:
    def loss(points: Tensor) -> Tensor:
        distance = (points - 1).square().sum(1)
        return torch.where(points[:, 0] > 1.5, torch.full_like(distance, bad), distance)

    result = list(islice(minimize(loss, torch.zeros(2, 3), first_step=4.0), 40))[-1]
    torch.testing.assert_close(result.points, torch.ones(2, 3), atol=1e-3, rtol=0)


def test_row_at_its_minimum_stays() -> None:
    start = torch.stack([torch.ones(4), torch.zeros(4)])
    result = list(islice(minimize(rosenbrock, start), 80))[-1]
    torch.testing.assert_close(result.points[0], start[0])
    assert result.losses[1] < 1e-4


def test_step_must_decrease_the_loss_sufficiently() -> None:
    def loss(points: Tensor) -> Tensor:
        return (-points + (1 - 1e-5) * points.square()).sum(1)  # -1e-5 at the first step

    start = torch.zeros(1, 1, dtype=torch.float64)
    _, second, *_, final = islice(minimize(loss, start, first_step=1.0), 8)
    assert (second.points.item(), second.losses.item()) == (0, 0)
    assert final.points.item() == pytest.approx(0.5, abs=1e-3)


def test_row_without_progress_continues_along_its_gradient() -> None:
    hessian = torch.tensor([1.0, 100.0], dtype=torch.float64)
    trials: list[Tensor] = []

    def loss(points: Tensor) -> Tensor:
        trials.append(points.detach())
        losses = (hessian * points.square()).sum(1) / 2
        return losses if len(trials) <= 5 else losses + torch.inf

    best = last(loss, torch.ones(1, 2, dtype=torch.float64), 14).points[0]
    steps = torch.cat(trials[5:]) - best
    lengths = steps.norm(dim=1)
    (restarts,) = (lengths[1:] > lengths[:-1]).nonzero(as_tuple=True)
    restart = steps[restarts[0] + 1]
    cosine = torch.cosine_similarity(restart, -hessian * best, dim=0)
    assert cosine.item() == pytest.approx(1)
    newton = torch.cosine_similarity(steps[0], -hessian * best, dim=0)
    assert newton.item() < 0.99, "the history led elsewhere"
