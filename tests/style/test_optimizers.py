"""The optimizers on a quadratic: Adam written out, torch's L-BFGS used directly, bounds, state."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atelier.style.bounds import Bounds, bounds_for, unbounded
from atelier.style.optimizers import AdamOptimizer, LbfgsOptimizer, build_optimizer
from atelier.style.spectral_lbfgs import FIRST_STEP, SpectralLbfgs

from ..support.painting import options

SHAPE = (1, 3, 3, 4)


def _noise(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


START = torch.rand(SHAPE, generator=torch.Generator().manual_seed(3))
WEIGHTS, GOAL = _noise(1).exp(), 0.5 + 0.6 * _noise(2)  # partly out of the bounds 0 and 1


def bowl(pictures: Tensor) -> tuple[Tensor, Tensor]:
    away = pictures - GOAL
    return 0.5 * (WEIGHTS * away.square()).sum((1, 2, 3)), WEIGHTS * away


@pytest.mark.parametrize("average", [0.0, 0.75])
@pytest.mark.parametrize("limited", [False, True])
def test_adam_is_the_papers_algorithm_with_projection_and_a_weighted_mean(
    average: float, limited: bool
) -> None:
    """Kingma and Ba 2015, algorithm 1; the mean is that of exponentially fading weights."""
    limits = bounds_for(0, 1, START) if limited else unbounded(START)
    adam = AdamOptimizer(START, bowl, limits, 0.1, average)
    assert torch.equal(adam.image, START)
    place, first, second = START.double(), torch.zeros(SHAPE).double(), torch.zeros(SHAPE).double()
    places = []
    for step in range(1, 13):
        gradient = WEIGHTS.double() * (place - GOAL.double())
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        root = (second / (1 - 0.999**step)).sqrt() + 1e-8
        place = place - 0.1 * first / (1 - 0.9**step) / root
        place = place.clamp(0, 1) if limited else place
        places.append(place)
    adam.advance(5)
    adam.advance(7)
    fading = [average ** (len(places) - 1 - number) for number in range(len(places))]
    mean = sum(w * p for w, p in zip(fading, places, strict=True)) / sum(fading)
    torch.testing.assert_close(adam.image.double(), mean, rtol=1e-5, atol=1e-5)


def test_average_of_iterates_stays_in_bounds() -> None:
    limits = bounds_for(0, 1, START)
    adam = AdamOptimizer(START, lambda one: (one.sum(), -torch.ones_like(one)), limits, 1.0, 0.9)
    adam.advance(40)
    assert adam.image.max() <= 1


@pytest.mark.parametrize("limited", [False, True])
def test_bounded_lbfgs_is_that_of_torch_on_angles(limited: bool) -> None:
    """Colors are ``(1 + sin) / 2`` of the angles, and the gradient follows the chain rule."""

    def colors(angles: Tensor) -> Tensor:
        return 0.2 + 0.7 * (0.5 + 0.5 * torch.sin(angles)) if limited else angles

    share = ((START - 0.2) / 0.7).clamp(0.002, 0.998)
    place = (torch.asin(2 * share - 1) if limited else START).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [place],
        lr=0.5,
        max_iter=9,
        max_eval=9,
        history_size=20,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    evaluations = []

    def closure() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = bowl(colors(place))[0].sum()
            loss.backward()
        evaluations.append(loss.item())
        return loss.item()

    ours: list[float] = []

    def evaluate(pictures: Tensor) -> tuple[Tensor, Tensor]:
        loss, gradient = bowl(pictures)
        ours.append(float(loss))
        return loss, gradient

    limits = bounds_for(0.2, 0.9, START) if limited else unbounded(START)
    lbfgs = LbfgsOptimizer(START, evaluate, limits, 0.5)
    for _ in range(2):
        optimizer.step(closure)
        lbfgs.advance(9)
    assert ours == pytest.approx(evaluations, rel=1e-4)
    torch.testing.assert_close(lbfgs.image, colors(place.detach()), rtol=1e-4, atol=1e-4)


def test_interrupted_lbfgs_returns_the_best_image_so_far() -> None:
    tried: list[tuple[float, Tensor]] = []

    def evaluate(pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Rise at the third evaluation, and stop at the fifth."""
        if len(tried) == 4:
            raise KeyboardInterrupt
        loss, gradient = bowl(pictures)
        loss = loss + 1000 * (len(tried) == 2)
        tried.append((float(loss), pictures.clone()))
        return loss, gradient

    lbfgs = LbfgsOptimizer(START, evaluate, unbounded(START), 1.0)
    with pytest.raises(KeyboardInterrupt):
        lbfgs.advance(20)
    best = min(tried, key=lambda one: one[0])[1]
    assert torch.equal(lbfgs.image, best)
    assert not torch.equal(best, tried[-1][1]) or len(tried) == 4


@pytest.mark.parametrize("limited", [False, True])
def test_lbfgs_stops_at_a_non_finite_loss(limited: bool) -> None:
    seen = []

    def evaluate(pictures: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(pictures)
        loss, gradient = bowl(pictures)
        return loss if len(seen) < 3 else loss * math.inf, gradient

    lbfgs = LbfgsOptimizer(
        START, evaluate, bounds_for(0, 1, START) if limited else unbounded(START), 1.0
    )
    lbfgs.advance(10)
    assert len(seen) == 3
    lbfgs.advance(10)
    assert len(seen) == 4


_KINDS: dict[str, Callable[[Tensor], AdamOptimizer | LbfgsOptimizer]] = {
    "adam": lambda canvas: AdamOptimizer(canvas, bowl, bounds_for(0, 1, START), 0.05, 0.0),
    "mean": lambda canvas: AdamOptimizer(canvas, bowl, bounds_for(0, 1, START), 0.05, 0.9),
    "lbfgs": lambda canvas: LbfgsOptimizer(canvas, bowl, bounds_for(0, 1, START), 0.3),
    "free lbfgs": lambda canvas: LbfgsOptimizer(canvas, bowl, unbounded(START), 0.3),
}


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("parts", [(0, 8), (1, 7), (6, 6)])
def test_restored_optimizer_continues_bit_exactly(kind: str, parts: tuple[int, int]) -> None:
    whole = _KINDS[kind](START)
    for evaluations in parts:
        if evaluations:
            whole.advance(evaluations)
    first = _KINDS[kind](START)
    if parts[0]:
        first.advance(parts[0])
    second = _KINDS[kind](first.image)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    assert torch.equal(second.image, first.image)
    second.advance(parts[1])
    assert torch.equal(second.image, whole.image)
    assert {name: str(t.dtype) for name, t in second.state().items()} == {
        name: str(t.dtype) for name, t in whole.state().items()
    }


@pytest.mark.parametrize("caution", [0, 2])
@pytest.mark.parametrize(
    ("optimizer", "lr"), [("adam", 0.05), ("lbfgs", 0.3), ("spectral_lbfgs", 1.0)]
)
def test_settings_choose_the_optimizer_and_shrinks_shorten_the_first_step(
    optimizer: str, lr: float, caution: int
) -> None:
    settings = options(
        optimizer=optimizer, lr=lr, iterate_averaging=0.5 if optimizer == "adam" else 0.0
    )
    limits, less = unbounded(START), 0.1**caution
    expected: dict[str, AdamOptimizer | LbfgsOptimizer | SpectralLbfgs] = {
        "adam": AdamOptimizer(START, bowl, limits, less * lr, 0.5),
        "lbfgs": LbfgsOptimizer(START, bowl, limits, less * lr),
        "spectral_lbfgs": SpectralLbfgs(START, bowl, limits, less * FIRST_STEP),
    }
    found, reference = build_optimizer(START, bowl, settings, limits, caution), expected[optimizer]
    assert type(found) is type(reference)
    for one in (found, reference):
        one.advance(3)
    assert torch.equal(found.image, reference.image)
    assert not torch.equal(found.image, START)


def test_bounds_of_angles_and_their_derivative() -> None:
    limits = Bounds(torch.tensor([0.0, -1.0, 0.3]), torch.tensor([1.0, 3.0, 0.3]))
    inside = torch.tensor([0.25, 2.0, 0.3])
    angles = limits.to_unbounded(inside)
    torch.testing.assert_close(angles[:2], torch.asin(torch.tensor([-0.5, 0.5])))
    torch.testing.assert_close(limits.from_unbounded(angles), inside)
    slope = torch.tensor([0.5 * math.sqrt(0.75), 2 * math.sqrt(0.75), 0.0])
    torch.testing.assert_close(limits.d_from_unbounded(angles), slope)
    outside = torch.tensor([-5.0, 9.0, 0.9])
    assert limits.clamp(outside).tolist() == pytest.approx([0, 3, 0.3])
    # Colors at a limit begin 0.2% of the range inside of it, so that they can move.
    moved = limits.from_unbounded(limits.to_unbounded(torch.tensor([0.0, 3.0, 0.3])))
    assert moved.tolist() == pytest.approx([0.002, 3 - 0.002 * 4, 0.3], rel=1e-5)
    assert not limits.is_unbounded
    assert unbounded(inside).is_unbounded
    assert not Bounds(torch.tensor(0.0), torch.tensor(math.inf)).is_unbounded
    assert not Bounds(torch.tensor(-math.inf), torch.tensor(0.0)).is_unbounded


def test_values_at_a_bound_are_free_only_if_descent_leads_inside() -> None:
    limits = bounds_for(0, 1, torch.zeros(()))
    pictures = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0])
    gradient = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0, -1.0, 0.0])
    free = [False, True, True, True, True, True, False, True]
    assert limits.free_mask(pictures, gradient).tolist() == free
    small = torch.full_like(gradient, 0.25) * gradient
    assert limits.free_mask(pictures, small).tolist() == free
