"""Built-in style images: reproducible, and different from each other."""

import numpy as np
import pytest
import torch

from atelier.core.setting_types import STYLES
from atelier.style.demo_styles import demo_style_image, demo_style_sources
from atelier.style.losses import gram_matrix
from atelier.style.vgg import build_vgg19, feature_maps, preprocess


@pytest.mark.parametrize("name", STYLES)
def test_image_has_the_size_and_depends_only_on_the_seed(name: str) -> None:
    image = demo_style_image(name, 96, seed=1)
    assert image.shape == (96, 96, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, demo_style_image(name, 96, seed=1))
    assert not np.array_equal(image, demo_style_image(name, 96, seed=2))


def test_image_of_another_seed_is_nearest_to_its_own_style() -> None:
    vgg = build_vgg19("vgg19_caffe", "max", 0, 20)

    def grams(name: str, seed: int) -> list[torch.Tensor]:
        pixels = torch.from_numpy(demo_style_image(name, 128, seed)).permute(2, 0, 1)[None] / 255
        maps = feature_maps(vgg, preprocess(pixels.float(), "caffe"), (1, 6, 11, 20))
        return [gram_matrix(feature_map) for feature_map in maps.values()]

    first = {name: grams(name, 1) for name in STYLES}
    for name in STYLES:
        second = grams(name, 2)
        distances = {
            other: [
                float((a - b).norm() / b.norm()) for a, b in zip(second, first[other], strict=True)
            ]
            for other in STYLES
        }
        own = distances.pop(name)
        for other in distances.values():
            assert all(
                2 * own_distance < other_distance
                for own_distance, other_distance in zip(own[1:], other[1:], strict=True)
            )


def test_former_name_draws_the_night_sky() -> None:
    assert np.array_equal(demo_style_image("drawn", 64, 1), demo_style_image("night_sky", 64, 1))
    images = {name: source() for name, source in demo_style_sources(64, 1).items()}
    assert list(images) == [*STYLES, "drawn"]
    assert all(list(image) == [name] for name, image in images.items())


def test_unknown_name_is_rejected() -> None:
    with pytest.raises(ValueError, match="monet is not a built-in style"):
        demo_style_image("monet", 64, 1)
