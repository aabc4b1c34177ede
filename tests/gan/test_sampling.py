import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.core.errors import AtelierError
from atelier.gan.generate import draw_latents, generate
from atelier.gan.sampling import (
    MAX_SEED,
    SampledGenerator,
    generate_one_by_one,
    interpolation_loop,
    latents_for_seeds,
    slerp,
)
from atelier.gan.serialization import save_network

from ..support.architectures import SMALL, vivid

CPU = torch.device("cpu")


def trained(latents: str = "normal", classes: int = 0, size: int = 40) -> SampledGenerator:
    """What shows its input: a picture one pixel high, as wide as the input is long."""
    about = {"latent_distribution": latents, "classes": classes}
    return SampledGenerator.from_module(
        lambda given: given[:, None, None], size + classes, about, CPU
    )


def test_half_way_between_orthogonal_vectors_is_their_sum_over_the_root_of_two() -> None:
    start, end = torch.tensor([3.0, 0, 0, 0]), torch.tensor([0, 3.0, 0, 0])
    middle = slerp(start, end, 0.5)
    torch.testing.assert_close(middle, (start + end) / math.sqrt(2))
    third = slerp(start, end, 1 / 3)
    torch.testing.assert_close(third[:2], 3 * torch.tensor([math.cos(math.pi / 6), 0.5]))


@given(st.integers(0, 2**32), st.integers(2, 200), st.floats(0, 1))
def test_the_way_between_vectors_of_one_length_keeps_it(seed: int, size: int, part: float) -> None:
    source = torch.Generator().manual_seed(seed)
    start, end = (
        torch.nn.functional.normalize(torch.randn(size, generator=source), dim=0) for _ in range(2)
    )
    if abs(float(start @ end)) < 0.999:
        assert float(slerp(start, end, part).norm()) == pytest.approx(1, abs=1e-4)
    assert torch.equal(slerp(start, end, 0.0), start)
    assert torch.equal(slerp(start, end, 1.0), end)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_the_way_is_straight_where_there_is_no_one_circle(factor: float) -> None:
    start = torch.arange(5.0)
    torch.testing.assert_close(slerp(start, factor * start, 0.25), start * (0.75 + 0.25 * factor))


def test_a_closed_loop_passes_every_latent_and_returns() -> None:
    asked = trained()
    given = list(latents_for_seeds((5, 1, 8), asked))
    way = list(interpolation_loop(given, 4, asked))
    assert len(way) == 12
    for number, latent in enumerate(given):
        assert torch.equal(way[4 * number], latent)
    torch.testing.assert_close(way[11], slerp(given[2], given[0], 0.75))


def test_a_closed_loop_stays_in_the_class_of_its_first() -> None:
    asked = trained(classes=3)
    way = list(interpolation_loop(list(latents_for_seeds((3, 4, 5), asked)), 2, asked))
    assert [vector[40:].tolist() for vector in way] == [[1, 0, 0]] * 6
    plain = interpolation_loop(list(latents_for_seeds((3, 4, 5), trained())), 2, trained())
    assert all(torch.equal(vector[:40], latent) for vector, latent in zip(way, plain, strict=True))


@pytest.mark.parametrize("latents", ["normal", "uniform"])
def test_a_seeds_latent_is_that_of_the_training_and_depends_on_nothing_else(latents: str) -> None:
    arch = replace(SMALL, latent_distribution=latents)
    asked = trained(latents, size=arch.latent_size)
    together = list(latents_for_seeds(range(20), asked))
    for seed, latent in enumerate(together):
        assert torch.equal(latent, draw_latents(1, arch, seed)[0])
        (alone,) = latents_for_seeds([seed], asked)
        assert torch.equal(alone, latent)
    assert len({tuple(latent.tolist()) for latent in together}) == 20


def test_seeds_that_are_neighbours_have_nothing_in_common() -> None:
    drawn = torch.stack(list(latents_for_seeds(range(200), trained(size=500))))
    likeness = torch.corrcoef(drawn) * math.sqrt(500)  # of independent ones: about N(0, 1)
    assert float(likeness.diagonal(1).abs().max()) < 4.5
    assert float(likeness[likeness < 20].std()) == pytest.approx(1, abs=0.02)


@given(st.integers(0, 2**63 - 1), st.floats(0.05, 4))
def test_truncated_numbers_are_within_the_threshold_and_others_stay(
    seed: int, threshold: float
) -> None:
    (plain,), (within,) = (
        latents_for_seeds([seed], trained()),
        latents_for_seeds([seed], trained(), threshold),
    )
    assert float(within.abs().max()) <= threshold
    kept = plain.abs() <= threshold
    assert torch.equal(within[kept], plain[kept])


def test_truncated_numbers_follow_the_truncated_normal() -> None:
    (drawn,) = latents_for_seeds([3], trained(size=100_000), 1.0)
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * density / math.erf(1 / math.sqrt(2))  # of N(0, 1) within 1
    assert float(drawn.var()) == pytest.approx(variance, rel=0.02)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)


def test_classes_are_asked_for_or_take_turns() -> None:
    asked = trained(classes=3)
    labels = [latent[40:].tolist() for latent in latents_for_seeds((3, 4, 5), asked)]
    assert labels == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [latent[40:].tolist() for latent in latents_for_seeds((3, 4), asked, label=2)] == [
        [0, 0, 1]
    ] * 2


@pytest.mark.parametrize(
    ("asked", "truncation", "label", "sentence"),
    [
        (trained("uniform"), 1.0, None, "uniform"),
        (trained(), 0.0, None, "0.01 or more"),
        (trained(), float("nan"), None, "0.01 or more"),
        (trained(), None, 0, "no classes"),
        (trained(classes=3), None, 3, "classes 0 to 2"),
        (trained(classes=3), None, -1, "classes 0 to 2"),
        (trained(), 0.0099, None, "0.01 or more"),
    ],
)
def test_what_cannot_be_asked_is_told(
    asked: SampledGenerator, truncation: float | None, label: int | None, sentence: str
) -> None:
    with pytest.raises(AtelierError, match=sentence):
        next(latents_for_seeds([1], asked, truncation, label))


@pytest.mark.parametrize("network", ["dcgan", "mlp"])
def test_a_seeds_picture_does_not_depend_on_its_neighbours(network: str) -> None:
    arch = replace(SMALL, network=network)
    generator = vivid(arch)
    asked = SampledGenerator.from_module(generator, arch.latent_size, {}, CPU)
    first, second, third = generate_one_by_one(asked, latents_for_seeds((7, 8, 9), asked))
    (alone,) = generate_one_by_one(asked, latents_for_seeds([8], asked))
    np.testing.assert_array_equal(alone, second)
    assert not np.array_equal(first, third)
    batch = generate(generator, torch.stack(list(latents_for_seeds((7, 8, 9), asked))))
    assert np.abs(batch[1].astype(int) - second).max() <= 1


def test_the_bounds_of_seeds_and_thresholds_are_within_them() -> None:
    assert MAX_SEED == 2**63 - 1
    (latent,) = latents_for_seeds([MAX_SEED], trained(size=1), 0.01)
    assert float(latent.abs()) <= 0.01
    with pytest.raises((ValueError, RuntimeError)):
        next(latents_for_seeds([2**64], trained(size=1)))
    (last,) = latents_for_seeds([0], trained(classes=3), label=2)
    assert last[40:].tolist() == [0, 0, 1]


def test_the_way_bends_even_between_vectors_that_nearly_point_the_same_way() -> None:
    """Of two unit vectors a hundredth apart, the middle is a unit vector, not a shorter one."""
    angle = 1e-3
    start = torch.tensor([1.0, 0], dtype=torch.float64)
    end = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    middle = slerp(start, end, 0.5)
    assert float(middle.norm()) == pytest.approx(1, abs=1e-12)


def test_a_file_is_taken_with_all_that_it_says_of_itself(tmp_path: Path) -> None:
    arch = replace(SMALL, latent_distribution="uniform", classes=2)
    generator = vivid(arch)
    save_network(generator, arch, tmp_path / "g.safetensors")
    found = SampledGenerator.from_file(tmp_path / "g.safetensors", CPU)
    assert (found.latent_size, found.latent_distribution, found.classes) == (8, "uniform", 2)
    assert found.device == CPU
    (picture,) = generate_one_by_one(found, latents_for_seeds([4], found))
    assert picture.shape == (16, 16, 3)
    assert np.array_equal(picture, generate(generator, draw_latents(1, arch, 4))[0])
    plain = SampledGenerator.from_module(generator, 10, {}, CPU)
    assert (plain.latent_size, plain.latent_distribution, plain.classes) == (10, "normal", 0)


def test_the_digest_is_of_names_and_bytes_of_all_weights() -> None:
    generator = vivid(SMALL)
    digest = sha256()
    for name in sorted(generator.state_dict()):
        digest.update(name.encode())
        digest.update(generator.state_dict()[name].numpy().tobytes())
    asked = SampledGenerator.from_module(generator, SMALL.latent_size, {}, CPU)
    assert asked.weights_digest == digest.hexdigest()
    assert trained().weights_digest == sha256().hexdigest()
    with torch.no_grad():
        list(generator.parameters())[-1].data[-1].neg_()
    assert asked.weights_digest != digest.hexdigest()
