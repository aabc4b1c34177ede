"""Faces of the explorer: latents, directions, neighbors, paths and files."""

import io
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from atelier.core.errors import AtelierError
from atelier.gan.generation import generate
from atelier.gan.sampling import latents_for_seeds
from atelier.web.explorer.explored_generator import END_OFFSET, ExploredGenerator, to_png
from atelier.web.explorer.requests import (
    Face,
    GifRequest,
    decode_latent,
    encode_latent,
)

from ..support.architectures import SMALL, with_changes
from ..support.explorer import explored

SIZE = SMALL.latent_size
LATENT = encode_latent(np.linspace(-1, 1, SIZE))


@pytest.fixture(scope="module")
def small() -> ExploredGenerator:
    return explored()


def angle(first: torch.Tensor, second: torch.Tensor) -> float:
    return math.acos(float(torch.cosine_similarity(first.double(), second.double(), dim=0)))


@pytest.mark.parametrize("truncation", [None, 0.8])
def test_seed_gives_the_image_of_atelier_generate(
    small: ExploredGenerator, truncation: float | None
) -> None:
    (latent,) = latents_for_seeds([5], small.generator, truncation)
    face = Face(seed=5, truncation=truncation, offsets=[0.0, 0.0])
    torch.testing.assert_close(small.latent(face), latent, rtol=0, atol=0)
    np.testing.assert_array_equal(
        small.image(face), generate(small.generator.network, latent[None])[0]
    )


def test_slider_moves_the_latent_by_standard_deviations(small: ExploredGenerator) -> None:
    (latent,) = latents_for_seeds([5], small.generator)
    directions = small.directions
    moved = latent + 1.5 * directions.deviations[1] * directions.vectors[1]
    moved -= 0.5 * directions.deviations[2] * directions.vectors[2]
    torch.testing.assert_close(small.latent(Face(seed=5, offsets=[0.0, 1.5, -0.5])), moved)
    image = small.image(Face(seed=5, offsets=[0.0, 1.5, -0.5]))
    np.testing.assert_array_equal(image, generate(small.generator.network, moved[None])[0])
    assert not np.array_equal(image, small.image(Face(seed=5)))


def test_ends_of_sliders_replace_one_offset(small: ExploredGenerator) -> None:
    pairs = small.ends(Face(seed=5, offsets=[0.5, 1.0]))
    assert len(pairs) == len(small.directions.vectors)
    low, high = (Face(seed=5, offsets=[end, 1.0]) for end in (-END_OFFSET, END_OFFSET))
    np.testing.assert_array_equal(pairs[0][0], small.image(low))
    np.testing.assert_array_equal(pairs[0][1], small.image(high))
    high = Face(seed=5, offsets=[0.5, 1.0, END_OFFSET])
    np.testing.assert_array_equal(pairs[2][1], small.image(high))


def test_neighbors_are_at_the_angle_and_deterministic(small: ExploredGenerator) -> None:
    face = Face(seed=5)
    center = small.latent(face)
    found = small.neighbors(face, 0.4, 6, seed=3)
    assert [angle(center, latent) for latent in found] == pytest.approx(6 * [0.4], abs=1e-3)
    assert [float(latent.norm()) for latent in found] == pytest.approx(6 * [float(center.norm())])
    again = small.neighbors(face, 0.4, 6, seed=3)
    torch.testing.assert_close(torch.stack(found), torch.stack(again), rtol=0, atol=0)
    other = small.neighbors(face, 0.4, 6, seed=4)
    assert not torch.equal(torch.stack(found), torch.stack(other))
    torch.testing.assert_close(small.neighbors(face, 0.0, 1, seed=3)[0], center)


def test_path_starts_and_ends_at_the_faces(small: ExploredGenerator) -> None:
    start, end = Face(seed=5), Face(seed=9, offsets=[1.0])
    path = small.path(start, end, 5)
    assert len(path) == 5
    torch.testing.assert_close(path[0], small.latent(start), rtol=0, atol=0)
    torch.testing.assert_close(path[-1], small.latent(end), rtol=0, atol=0)
    quarter = angle(path[0], path[-1]) / 4
    for first, second in pairwise(path):
        assert angle(first, second) < 1.5 * quarter


def test_face_of_a_latent_is_the_same_face(small: ExploredGenerator) -> None:
    latent = small.latent(Face(seed=7, offsets=[0.3]))
    face = small.face_of(latent)
    assert face.seed is None
    torch.testing.assert_close(small.latent(face), latent, rtol=0, atol=0)


def test_classes_and_uniform_latents() -> None:
    arch = with_changes(SMALL, classes=3, latent_distribution="uniform")
    conditional = explored(arch)
    assert conditional.latent(Face(seed=4))[SIZE:].tolist() == [0, 1, 0], "the class of the seed"
    labeled = conditional.latent(Face(seed=4, label=2, offsets=[6.0, 6.0, 6.0]))
    assert labeled[SIZE:].tolist() == [0, 0, 1]
    assert float(labeled[:SIZE].abs().max()) == 1, "limited to the values of the training"
    face = conditional.face_of(labeled)
    assert face.label == 2
    torch.testing.assert_close(conditional.latent(face), labeled)
    for latent in conditional.neighbors(face, 0.5, 3, seed=0):
        assert latent[SIZE:].tolist() == [0, 0, 1]
        assert float(latent[:SIZE].abs().max()) <= 1
    path = conditional.path(face, Face(latent=encode_latent(np.tile([1, -1], SIZE // 2))), 7)
    assert [latent[SIZE:].tolist() for latent in path] == 7 * [[0, 0, 1]]
    assert max(float(latent[:SIZE].abs().max()) for latent in path) == 1
    for latent, image in zip(path, conditional.images(path), strict=True):
        np.testing.assert_array_equal(conditional.image(conditional.face_of(latent)), image)
    with pytest.raises(AtelierError, match="there is no class 3: this generator has classes 0 to"):
        conditional.latent(Face(latent=LATENT, label=3))
    with pytest.raises(AtelierError, match="truncation requires normal latents"):
        conditional.latent(Face(seed=4, truncation=1.0))


def test_face_of_another_generator_is_refused(small: ExploredGenerator) -> None:
    with pytest.raises(AtelierError, match=r"the latent has 9 numbers, but this generator needs 8"):
        small.latent(Face(latent=encode_latent(np.zeros(9))))
    with pytest.raises(AtelierError, match="this generator has 4 directions, not 5"):
        small.latent(Face(seed=1, offsets=5 * [0.0]))
    with pytest.raises(AtelierError, match="this generator has no classes"):
        small.latent(Face(seed=1, label=0))


def test_latent_text_is_exact_and_checked() -> None:
    values = np.array([1.5, -3e-9, 100.0], np.float32)
    np.testing.assert_array_equal(decode_latent(encode_latent(values)), values)
    assert set(encode_latent(np.arange(50.0))) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    ), "an address can contain it"
    for invalid in (np.array([np.nan]), np.array([np.inf]), np.array([101.0]), np.array([])):
        with pytest.raises(ValueError, match="the latent has a value that is not from -100"):
            decode_latent(encode_latent(invalid))
    for text in ("!", "AAA", "ÄÖÜ"):
        with pytest.raises(ValueError, match="the latent is not base64 of float32"):
            decode_latent(text)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 1, "latent": LATENT},
        {"latent": LATENT, "truncation": 1.0},
        {"seed": -1},
        {"seed": 2**53},
        {"seed": 1.0},
        {"seed": "1"},
        {"seed": 1, "truncation": 0.0},
        {"seed": 1, "truncation": math.nan},
        {"seed": 1, "offsets": [math.inf]},
        {"seed": 1, "offsets": [6.01]},
        {"seed": 1, "offsets": 17 * [0.0]},
        {"seed": 1, "label": -1},
        {"seed": 1, "other": 1},
        {"latent": "../../etc/passwd"},
    ],
)
def test_face_with_invalid_values_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Face.model_validate(fields)


def test_gif_goes_to_the_end_and_back(small: ExploredGenerator) -> None:
    request = GifRequest(start=Face(seed=5), end=Face(seed=9), frames=4, fps=10)
    with Image.open(io.BytesIO(small.gif(request))) as gif:
        assert (gif.n_frames, gif.size) == (6, (256, 256))
        gif.seek(3)
        last = np.asarray(gif.convert("RGB"))[8::16, 8::16].astype(int)
        gif.seek(4)
        before = np.asarray(gif.convert("RGB"))[8::16, 8::16].astype(int)
    assert np.abs(last - small.image(request.end)).mean() < 6  # GIF has 256 colors
    third = small.images(small.path(request.start, request.end, 4))[2]
    assert np.abs(before - third).mean() < 6


@pytest.mark.parametrize("channels", [1, 3])
def test_png_has_enlarged_pixels(channels: int) -> None:
    image = np.arange(16 * channels, dtype=np.uint8).reshape(4, 4, channels)
    with Image.open(io.BytesIO(to_png(image, 3))) as opened:
        pixels = np.asarray(opened).reshape(12, 12, channels)
    np.testing.assert_array_equal(pixels[1::3, 2::3], image)
