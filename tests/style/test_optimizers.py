"""Optimizers on a quadratic loss against simple references; bounds and state."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atelier.style.bounds import Bounds, bounds_for, unbounded
from atelier.style.optimizers import AdamOptimizer, LbfgsOptimizer, build_optimizer
from atelier.style.spectral_lbfgs import FIRST_STEP, SpectralLbfgs

from ..support.painting import options

SHAPE = (1, 3, 3, 4)


def _noise(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


START = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3))
WEIGHTS, MINIMUM = _noise(1).exp(), 0.5 + 0.6 * _noise(2)  # partly outside the bounds 0 and 1


def quadratic_loss(images: Tensor) -> tuple[Tensor, Tensor]:
    difference = images - MINIMUM
    return 0.5 * (WEIGHTS * difference.square()).sum((1, 2, 3)), WEIGHTS * difference


@pytest.mark.parametrize("average", [0.0, 0.75])
@pytest.mark.parametrize("bounded", [False, True])
def test_adam_equals_the_published_algorithm_with_projection_and_averaging(
    average: float, bounded: bool
) -> None:
    """Kingma and Ba 2015, algorithm 1; weights of the average decay exponentially."""
    bounds = bounds_for(0, 1, START) if bounded else unbounded(START)
    adam = AdamOptimizer(START, quadratic_loss, bounds, 0.1, average)
    assert torch.equal(adam.current_image(), START)
    image, first, second = START.double(), torch.zeros(SHAPE).double(), torch.zeros(SHAPE).double()
    images = []
    for iteration in range(1, 13):
        gradient = WEIGHTS.double() * (image - MINIMUM.double())
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        root = (second / (1 - 0.999**iteration)).sqrt() + 1e-8
        image = image - 0.1 * first / (1 - 0.9**iteration) / root
        image = image.clamp(0, 1) if bounded else image
        images.append(image)
    adam.advance(5)
    adam.advance(7)
    weights = [average ** (len(images) - 1 - number) for number in range(len(images))]
    mean = sum(w * p for w, p in zip(weights, images, strict=True)) / sum(weights)
    torch.testing.assert_close(adam.current_image().double(), mean, rtol=1e-5, atol=1e-5)


def test_average_of_iterates_stays_in_bounds() -> None:
    bounds = bounds_for(0, 1, START)
    adam = AdamOptimizer(
        START, lambda image: (image.sum(), -torch.ones_like(image)), bounds, 1.0, 0.9
    )
    adam.advance(40)
    assert adam.current_image().max() <= 1


@pytest.mark.parametrize("bounded", [False, True])
def test_bounded_lbfgs_equals_torch_lbfgs_on_angles(bounded: bool) -> None:
    """Colors are ``(1 + sin) / 2`` of the angles, and the gradient follows the chain rule."""

    def colors(values: Tensor) -> Tensor:
        return 0.2 + 0.7 * (0.5 + 0.5 * torch.sin(values)) if bounded else values

    fraction = ((START - 0.2) / 0.7).clamp(0.002, 0.998)
    angles = (torch.asin(2 * fraction - 1) if bounded else START).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [angles],
        lr=0.5,
        max_iter=9,
        max_eval=9,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    expected_losses = []

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = quadratic_loss(colors(angles))[0].sum()
            loss.backward()
        expected_losses.append(loss.item())
        return loss.item()

    losses: list[float] = []

    def evaluate(images: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = quadratic_loss(images)
        losses.append(float(loss))
        return loss, gradient

    bounds = bounds_for(0.2, 0.9, START) if bounded else unbounded(START)
    lbfgs = LbfgsOptimizer(START, evaluate, bounds, 0.5)
    for _ in range(2):
        optimizer.step(closure)
        lbfgs.advance(9)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    torch.testing.assert_close(lbfgs.current_image(), colors(angles.detach()), rtol=1e-4, atol=1e-4)


def test_interrupted_lbfgs_returns_the_best_image_so_far() -> None:
    evaluations: list[tuple[float, Tensor]] = []

    def evaluate(images: Tensor) -> tuple[Tensor, Tensor]:
        """Add 1000 to the third loss, and interrupt the fifth evaluation."""
        if len(evaluations) == 4:
            raise KeyboardInterrupt
        loss, gradient = quadratic_loss(images)
        loss = loss + 1000 * (len(evaluations) == 2)
        evaluations.append((float(loss), images.clone()))
        return loss, gradient

    lbfgs = LbfgsOptimizer(START, evaluate, unbounded(START), 1.0)
    with pytest.raises(KeyboardInterrupt):
        lbfgs.advance(20)
    best = min(evaluations, key=lambda evaluation: evaluation[0])[1]
    assert torch.equal(lbfgs.current_image(), best)
    assert not torch.equal(best, evaluations[-1][1]) or len(evaluations) == 4


@pytest.mark.parametrize("bounded", [False, True])
def test_evaluation_of_lbfgs_reads_the_device_once(bounded: bool) -> None:
    reads = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.ops.aten._local_scalar_dense.default:
                reads.append(args[0])
            return func(*args, **(kwargs or {}))

    bounds = bounds_for(0, 1, START) if bounded else unbounded(START)
    lbfgs = LbfgsOptimizer(START, quadratic_loss, bounds, 1.0)
    with Reads():
        loss = lbfgs._loss()
    assert loss == pytest.approx(float(quadratic_loss(START)[0]), rel=1e-2)
    assert len(reads) == 1


@pytest.mark.parametrize("bounded", [False, True])
def test_lbfgs_stops_at_a_non_finite_loss(bounded: bool) -> None:
    evaluated = []

    def evaluate(images: Tensor) -> tuple[Tensor, Tensor]:
        evaluated.append(images)
        loss, gradient = quadratic_loss(images)
        return loss if len(evaluated) < 3 else loss * math.inf, gradient

    lbfgs = LbfgsOptimizer(
        START, evaluate, bounds_for(0, 1, START) if bounded else unbounded(START), 1.0
    )
    lbfgs.advance(10)
    assert len(evaluated) == 3
    lbfgs.advance(10)
    assert len(evaluated) == 4


_OPTIMIZERS: dict[str, Callable[[Tensor], AdamOptimizer | LbfgsOptimizer]] = {
    "adam": lambda image: AdamOptimizer(image, quadratic_loss, bounds_for(0, 1, START), 0.05, 0.0),
    "mean": lambda image: AdamOptimizer(image, quadratic_loss, bounds_for(0, 1, START), 0.05, 0.9),
    "lbfgs": lambda image: LbfgsOptimizer(image, quadratic_loss, bounds_for(0, 1, START), 0.3),
    "free lbfgs": lambda image: LbfgsOptimizer(image, quadratic_loss, unbounded(START), 0.3),
}


@pytest.mark.parametrize("kind", _OPTIMIZERS)
@pytest.mark.parametrize("parts", [(0, 8), (1, 7), (6, 6)])
def test_restored_optimizer_continues_bit_exactly(kind: str, parts: tuple[int, int]) -> None:
    uninterrupted = _OPTIMIZERS[kind](START)
    for evaluations in parts:
        if evaluations:
            uninterrupted.advance(evaluations)
    first = _OPTIMIZERS[kind](START)
    if parts[0]:
        first.advance(parts[0])
    second = _OPTIMIZERS[kind](first.current_image())
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    assert torch.equal(second.current_image(), first.current_image())
    second.advance(parts[1])
    assert torch.equal(second.current_image(), uninterrupted.current_image())
    assert {name: str(t.dtype) for name, t in second.state().items()} == {
        name: str(t.dtype) for name, t in uninterrupted.state().items()
    }


@pytest.mark.parametrize("shrinks", [0, 2])
@pytest.mark.parametrize(("name", "lr"), [("adam", 0.05), ("lbfgs", 0.3), ("spectral_lbfgs", 1.0)])
def test_optimizer_follows_the_settings_and_shrinks_shorten_its_first_step(
    name: str, lr: float, shrinks: int
) -> None:
    settings = options(optimizer=name, lr=lr, iterate_averaging=0.5 if name == "adam" else 0.0)
    bounds, factor = unbounded(START), 0.1**shrinks
    expected: dict[str, AdamOptimizer | LbfgsOptimizer | SpectralLbfgs] = {
        "adam": AdamOptimizer(START, quadratic_loss, bounds, factor * lr, 0.5),
        "lbfgs": LbfgsOptimizer(START, quadratic_loss, bounds, factor * lr),
        "spectral_lbfgs": SpectralLbfgs(START, quadratic_loss, bounds, factor * FIRST_STEP),
    }
    optimizer, reference = (
        build_optimizer(START, quadratic_loss, settings, bounds, shrinks),
        expected[name],
    )
    assert type(optimizer) is type(reference)
    for instance in (optimizer, reference):
        instance.advance(3)
    assert torch.equal(optimizer.current_image(), reference.current_image())
    assert not torch.equal(optimizer.current_image(), START)


def test_bounds_convert_to_angles_with_their_derivative() -> None:
    bounds = Bounds(torch.tensor([0.0, -1.0, 0.3]), torch.tensor([1.0, 3.0, 0.3]))
    values = torch.tensor([0.25, 2.0, 0.3])
    angles = bounds.to_unbounded(values)
    torch.testing.assert_close(angles[:2], torch.asin(torch.tensor([-0.5, 0.5])))
    torch.testing.assert_close(bounds.from_unbounded(angles), values)
    derivative = torch.tensor([0.5 * math.sqrt(0.75), 2 * math.sqrt(0.75), 0.0])
    torch.testing.assert_close(bounds.d_from_unbounded(angles), derivative)
    out_of_bounds = torch.tensor([-5.0, 9.0, 0.9])
    assert bounds.clamp(out_of_bounds).tolist() == pytest.approx([0, 3, 0.3])
    # Colors at a bound start inside it by 0.2% of the range, so that they can move.
    restored = bounds.from_unbounded(bounds.to_unbounded(torch.tensor([0.0, 3.0, 0.3])))
    assert restored.tolist() == pytest.approx([0.002, 3 - 0.002 * 4, 0.3], rel=1e-5)
    assert not bounds.is_unbounded()
    assert unbounded(values).is_unbounded()
    assert not Bounds(torch.tensor(0.0), torch.tensor(math.inf)).is_unbounded()
    assert not Bounds(torch.tensor(-math.inf), torch.tensor(0.0)).is_unbounded()


def test_values_at_a_bound_are_free_only_if_descent_leads_inside() -> None:
    bounds = bounds_for(0, 1, torch.zeros(()))
    images = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0])
    gradient = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0, -1.0, 0.0])
    free = [False, True, True, True, True, True, False, True]
    assert bounds.free_mask(images, gradient).tolist() == free
    small = torch.full_like(gradient, 0.25) * gradient
    assert bounds.free_mask(images, small).tolist() == free
