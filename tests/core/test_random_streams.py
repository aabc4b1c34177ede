"""Independent random streams of one seed and of neighboring seeds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atelier.core.random_streams import derive_seed, numpy_generator, torch_generator
from atelier.metrics.extractors import build_extractor

SEEDS = st.integers(0, 2**32 - 1)
NAMES = st.text(min_size=1, max_size=30)


@given(SEEDS, NAMES)
def test_stream_is_reproducible(seed: int, name: str) -> None:
    assert derive_seed(seed, name) == derive_seed(seed, name)
    numpy_1, numpy_2 = (numpy_generator(seed, name).random(3).tolist() for _ in range(2))
    assert numpy_1 == numpy_2
    torch_1, torch_2 = (torch.rand(3, generator=torch_generator(seed, name)) for _ in range(2))
    assert torch.equal(torch_1, torch_2)


@given(st.sets(st.tuples(SEEDS, NAMES), min_size=2, max_size=20))
def test_streams_of_different_seeds_and_names_differ(seeds_and_names: set[tuple[int, str]]) -> None:
    # On a CPU, torch uses only the lower half of the bits.
    lower = {derive_seed(seed, name) % 2**32 for seed, name in seeds_and_names}
    assert len(lower) == len(seeds_and_names)
    assert len(
        {numpy_generator(*seed_and_name).random() for seed_and_name in seeds_and_names}
    ) == len(seeds_and_names)


def test_stream_without_name_is_rejected() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        derive_seed(1, "")


def test_seed_equals_recorded_value() -> None:
    assert derive_seed(1, "train.latents.0") == 281900623314435605
    assert derive_seed(2**32 - 1, "a") != derive_seed(2**32 - 2, "a")


@pytest.mark.parametrize("seed", [1, 2])
def test_random_filters_differ_from_raw_seed_and_latents(seed: int) -> None:
    """With one seed for both, latents and filters were equal up to a factor."""
    weights = build_extractor("random", seed).network.layers[0].weight.flatten()
    raw = torch.Generator().manual_seed(seed)
    for generator in (raw, torch_generator(seed, "evaluate.latents")):
        numbers = torch.randn(weights.shape, generator=generator)
        correlation = torch.corrcoef(torch.stack([weights, numbers]))[0, 1]
        assert abs(float(correlation)) < 0.1
