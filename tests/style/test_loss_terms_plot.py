"""Weighted loss terms for the plot: closed forms."""

import numpy as np
import pytest

from atelier.style.batch import StylizedImage, loss_terms_plot
from atelier.style.loss_log import IterationLosses

from ..support.painting import options

BLACK = np.zeros((2, 2, 3), np.uint8)


def _stylized_image(losses: dict[int, tuple[float, float]]) -> StylizedImage:
    """Return an image with a style loss and a content loss for each iteration."""
    iterates = [
        IterationLosses(
            0, iteration, 2 * style + 0.5 * content, {"style_1": style, "content_3": content}
        )
        for iteration, (style, content) in losses.items()
    ]
    return StylizedImage("a", "b", BLACK, BLACK, BLACK, tuple(iterates))


def test_terms_are_weighted_and_add_up_to_the_loss() -> None:
    settings = options(style_layers={1: 2.0}, content_layers={3: 0.5})
    iterations, lines = loss_terms_plot(
        [_stylized_image({1: (8, 0), 2: (4, 1), 3: (1, 6)})], settings
    )
    assert iterations.tolist() == [1, 2, 3]
    assert lines["style 1"].tolist() == [16, 8, 2]
    assert lines["content 3"].tolist() == [0, 0.5, 3]
    assert lines["loss"] == pytest.approx(lines["style 1"] + lines["content 3"])


def test_terms_are_averaged_and_last_losses_are_repeated() -> None:
    settings = options(style_layers={1: 2.0}, content_layers={3: 0.5})
    long, short = (
        _stylized_image({1: (8, 0), 2: (4, 0), 3: (2, 0)}),
        _stylized_image({1: (4, 0), 2: (2, 0)}),
    )
    _, lines = loss_terms_plot([long, short], settings)
    assert lines["loss"].tolist() == [12, 6, 4]


def test_missing_evaluation_repeats_the_previous_losses() -> None:
    settings = options(style_layers={1: 2.0}, content_layers={3: 0.5})
    _, lines = loss_terms_plot([_stylized_image({1: (8, 0), 3: (2, 0)})], settings)
    assert lines["loss"].tolist() == [16, 16, 4]
