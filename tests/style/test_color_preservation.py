"""Color preservation: luminance, its bounds, and changes of mean and covariance."""

import pytest
import torch
from torch import Tensor

from atelier.style.color_preservation import (
    luminance,
    luminance_bounds,
    match_color_statistics,
    match_luminance,
    recombine_luminance,
)


def _colors(*colors: tuple[float, float, float]) -> Tensor:
    """Return an image of one row, float32 [1, 3, 1, N]."""
    return torch.tensor(colors).T[None, :, None, :].contiguous()


RED, GREEN, BLUE, GRAY = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.4, 0.4, 0.4)
LUMINANCE_WEIGHTS = [0.299, 0.587, 0.114]  # Rec. 601


def test_luminance_is_that_of_rec_601() -> None:
    result = luminance(_colors(RED, GREEN, BLUE, GRAY, (0.2, 0.4, 0.6)))
    mixed_luminance = (
        0.2 * LUMINANCE_WEIGHTS[0] + 0.4 * LUMINANCE_WEIGHTS[1] + 0.6 * LUMINANCE_WEIGHTS[2]
    )
    for channel in result[0, :, 0]:
        assert channel.tolist() == pytest.approx([*LUMINANCE_WEIGHTS, 0.4, mixed_luminance])


def test_luminance_bounds_are_reached_if_a_channel_is_0_or_1() -> None:
    """Red, green and blue have channels at 0 and at 1, so their range is a single value."""
    colors = _colors(RED, GREEN, BLUE, GRAY, (0.2, 0.4, 0.6))
    bounds = luminance_bounds(colors)
    mixed_luminance = (
        0.2 * LUMINANCE_WEIGHTS[0] + 0.4 * LUMINANCE_WEIGHTS[1] + 0.6 * LUMINANCE_WEIGHTS[2]
    )
    assert bounds.low.shape == bounds.high.shape == colors.shape
    for low, high in zip(bounds.low[0, :, 0], bounds.high[0, :, 0], strict=True):
        assert low.tolist() == pytest.approx(
            [*LUMINANCE_WEIGHTS, 0, mixed_luminance - 0.2], abs=1e-6
        )
        assert high.tolist() == pytest.approx(
            [*LUMINANCE_WEIGHTS, 1, mixed_luminance + 0.4], abs=1e-6
        )


def test_recombined_luminance_shifts_all_channels_equally() -> None:
    colors = _colors((0.2, 0.4, 0.6), (0.1, 0.9, 0.5))
    brighter = recombine_luminance(luminance(colors) + 0.1, colors)
    torch.testing.assert_close(brighter, colors + 0.1)
    torch.testing.assert_close(recombine_luminance(luminance(colors), colors), colors)
    assert recombine_luminance(luminance(colors) + 2, colors).max() == 1
    assert recombine_luminance(luminance(colors) - 2, colors).min() == 0


def test_matched_luminance_has_mean_and_deviation_of_the_content() -> None:
    style = torch.tensor([0.1, 0.2, 0.6]).expand(1, 3, 1, 3)
    content = torch.tensor([0.4, 0.5, 0.6]).expand(1, 3, 1, 3)
    result = match_luminance(style, content)
    spread = content.double().std() / style.double().std()
    expected = (style.double() - style.double().mean()) * spread + 0.5
    torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)
    flat = match_luminance(torch.full((1, 3, 1, 3), 0.9), content)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.5), atol=2e-3, rtol=0)
    dark, light = (torch.tensor(levels).expand(1, 3, 1, 3) for levels in ([0.0, 0, 1], [0, 1.0, 1]))
    assert match_luminance(style, dark).min() == 0
    assert match_luminance(style, light).max() == 1


def test_color_map_is_symmetric_and_matches_covariances() -> None:
    """Compare with a diagonal covariance, then with square roots of covariance matrices."""
    axes = torch.tensor([[1.0, -1, 0, 0, 0, 0], [0, 0, 1, -1, 0, 0], [0, 0, 0, 0, 1, -1]])
    style = 0.5 + 0.1 * axes[None, :, None]
    content = 0.4 + torch.tensor([0.2, 0.05, 0.1]).view(1, 3, 1, 1) * axes[None, :, None]
    torch.testing.assert_close(match_color_statistics(style, content), content, atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(1)
    first, second = (0.35 + 0.3 * torch.rand(1, 3, 9, 9, generator=generator) for _ in range(2))
    result = match_color_statistics(first, second).double().flatten(2)[0]
    source, target = first.double().flatten(2)[0], second.double().flatten(2)[0]
    # Recover the map that was applied by least squares of the centered colors.
    centered = source - source.mean(1, keepdim=True)
    color_map = torch.linalg.lstsq(centered.T, (result - result.mean(1, keepdim=True)).T).solution.T
    torch.testing.assert_close(
        color_map @ torch.cov(source) @ color_map.T, torch.cov(target), atol=1e-6, rtol=0
    )
    roots = [torch.linalg.eigh(torch.cov(colors)) for colors in (source, target)]
    (eigenvalues, eigenvectors), (target_eigenvalues, target_eigenvectors) = roots
    inverse = eigenvectors @ torch.diag(eigenvalues**-0.5) @ eigenvectors.T
    root = target_eigenvectors @ torch.diag(target_eigenvalues**0.5) @ target_eigenvectors.T
    torch.testing.assert_close(color_map, root @ inverse, atol=1e-4, rtol=1e-4)


def test_constant_color_becomes_the_mean_of_the_content() -> None:
    flat, content = _colors(*[(0.9, 0.1, 0.3)] * 4), _colors((0.2, 0.4, 0.6), (0.4, 0.2, 0.8))
    result = match_color_statistics(flat, content)
    torch.testing.assert_close(result, _colors(*[(0.3, 0.3, 0.7)] * 4))
    # A gray style must not get colored noise.
    gray_style = _colors(*[(level, level, level) for level in (0.0, 0.3, 1.0)])
    gray_content = _colors(*[(level, level, level) for level in (0.2, 0.4, 0.6)])
    result = match_color_statistics(gray_style, gray_content)
    assert (result - result.mean(1, keepdim=True)).abs().max() < 1e-4
