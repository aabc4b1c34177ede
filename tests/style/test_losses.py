"""Gram matrices and losses against closed forms and a simple reference."""

import pytest
import torch
from torch import Tensor

from atelier.style.losses import (
    StyleLoss,
    content_loss,
    gram_matrix,
    style_loss,
    style_statistics,
    total_variation,
)


def _gram_by_loops(features: Tensor) -> Tensor:
    channels = range(features.shape[1])
    pixels = features.shape[2] * features.shape[3]
    entries = [
        (image[i] * image[j]).sum() / pixels
        for image in features
        for i in channels
        for j in channels
    ]
    return torch.stack(entries).view(len(features), len(channels), len(channels))


def _style_loss(features: Tensor, target: Tensor) -> Tensor:
    return style_loss(gram_matrix(features), target)


@pytest.fixture
def features() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)


def test_gram_matrix_of_ones_is_all_ones() -> None:
    assert torch.equal(gram_matrix(torch.ones(2, 4, 3, 5)), torch.ones(2, 4, 4))


def test_gram_matrix_of_a_worked_example() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    assert gram_matrix(features).tolist() == [[[2.5, 0.5], [0.5, 5.0]]]


def test_gram_matrix_equals_a_sum_by_loops(features: Tensor) -> None:
    torch.testing.assert_close(gram_matrix(features), _gram_by_loops(features))


def test_gram_matrix_does_not_depend_on_positions(features: Tensor) -> None:
    reversed_features = features.flatten(2)[:, :, torch.arange(20).flip(0)].view_as(features)
    torch.testing.assert_close(gram_matrix(reversed_features), gram_matrix(features))


def test_bfloat16_is_summed_in_float32(features: Tensor) -> None:
    """Sum many pixels, because a sum in bfloat16 stops growing early."""
    rounded = features.repeat(1, 1, 40, 40).bfloat16()
    gram = gram_matrix(rounded)
    assert gram.dtype == torch.float32
    torch.testing.assert_close(gram, gram_matrix(rounded.float()), rtol=2e-3, atol=2e-3)
    flipped = rounded.flip(2)
    assert content_loss(rounded, flipped).dtype == torch.float32
    assert torch.equal(
        content_loss(rounded, flipped), content_loss(rounded.float(), flipped.float())
    )


def test_gradient_of_a_bfloat16_gram_matrix_is_near_that_of_float32(features: Tensor) -> None:
    gradient = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(4))
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        leaf = features.repeat(1, 1, 4, 4).to(dtype).requires_grad_()
        (gram_matrix(leaf) * gradient).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.float())
    torch.testing.assert_close(*gradients, rtol=0.02, atol=2e-4)


def test_each_image_has_its_own_loss(features: Tensor) -> None:
    target = gram_matrix(features[:1] * 0.5)
    for loss, loss_target in ((_style_loss, target), (content_loss, features.flip(1))):
        together = loss(features, loss_target)
        alone = [
            loss(features[i : i + 1], loss_target[min(i, len(loss_target) - 1)][None])
            for i in range(2)
        ]
        torch.testing.assert_close(together, torch.cat(alone))


def test_style_loss_of_the_style_itself_is_0(features: Tensor) -> None:
    assert _style_loss(features, gram_matrix(features)).tolist() == [0, 0]


def test_style_loss_of_a_worked_example() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    target = torch.tensor([[[0.5, 0.5], [0.5, 1.0]]])
    assert _style_loss(features, target) == (2.0**2 + 4.0**2) / 4


def test_content_loss_of_a_worked_example() -> None:
    assert content_loss(torch.tensor([[[[1.0, 4.0]]]]), torch.tensor([[[[3.0, 3.0]]]])) == 2.5


def test_gradient_of_the_style_loss_equals_the_reference(features: Tensor) -> None:
    target = gram_matrix(features.flip(2) * 0.5)
    ours = features.clone().requires_grad_()
    _style_loss(ours, target).mean().backward()
    reference = features.clone().requires_grad_()
    ((_gram_by_loops(reference) - target) ** 2).mean().backward()
    torch.testing.assert_close(ours.grad, reference.grad)


@pytest.mark.parametrize("name", ["style", "content"])
def test_gradients_equal_finite_differences(features: Tensor, name: str) -> None:
    image = features.clone().requires_grad_()
    if name == "style":
        target = gram_matrix(features * 2)
        assert torch.autograd.gradcheck(lambda x: _style_loss(x, target), image)
    else:
        assert torch.autograd.gradcheck(lambda x: content_loss(x, features * 2), image)


def test_statistics_of_tiles_add_up_to_those_of_the_image(features: Tensor) -> None:
    """Compare the sum over two tiles with one pass, with and without a mask."""
    mask = torch.rand(2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for kind in ("gram", "moments"):
        for region, pixel_count in ((None, torch.tensor([20.0])), (mask, mask.sum((1, 2, 3)))):
            tiles = [
                style_statistics(
                    features[..., half],
                    kind,
                    None if region is None else region[..., half],
                    pixel_count,
                )
                for half in (slice(0, 2), slice(2, 5))
            ]
            torch.testing.assert_close(sum(tiles), style_statistics(features, kind, region))


def test_mask_selects_positions(features: Tensor) -> None:
    mask = torch.zeros(1, 1, 4, 5, dtype=torch.float64)
    mask[..., :2] = 1
    for kind in ("gram", "moments"):
        whole = style_statistics(features, kind)
        torch.testing.assert_close(style_statistics(features, kind, torch.ones_like(mask)), whole)
        left = style_statistics(features[..., :2], kind)
        torch.testing.assert_close(style_statistics(features, kind, mask), left)


def test_moments_are_means_and_covariances(features: Tensor) -> None:
    target = style_statistics(features.flip(2) * 0.5 + 1, "moments")
    flat, other = features.flatten(2), (features.flip(2) * 0.5 + 1).flatten(2)
    for number in range(2):
        ours, theirs = flat[number], other[number]
        covariance = torch.cov(ours, correction=0) - torch.cov(theirs, correction=0)
        expected = covariance.square().mean() + (ours.mean(1) - theirs.mean(1)).square().mean()
        loss = style_loss(style_statistics(features, "moments"), target)[number]
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("kind", ["gram", "moments"])
def test_style_loss_of_equal_statistics_is_0(features: Tensor, kind: StyleLoss) -> None:
    own = style_statistics(features, kind)
    assert style_loss(own, own).tolist() == [0, 0]


@pytest.mark.parametrize(("height", "width"), [(2, 2), (4, 6), (5, 3)])
def test_total_variation_of_a_checkerboard_counts_its_edges(height: int, width: int) -> None:
    board = (torch.arange(height)[:, None] + torch.arange(width)) % 2
    boards = board.double().expand(2, 3, -1, -1) * torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    edges = height * (width - 1) + (height - 1) * width
    edges_per_pixel = edges / (height * width)
    torch.testing.assert_close(
        total_variation(boards), torch.tensor([edges_per_pixel, edges_per_pixel / 4]).double()
    )
    assert total_variation(torch.full((1, 3, 4, 4), 0.7)) == 0
