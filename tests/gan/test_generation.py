"""Latents, labels, generated images, and batches of training images."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atelier.core.arrays import to_tensor
from atelier.gan.generation import (
    draw_latents,
    generate,
    random_latents,
    split_labels,
    with_labels,
)
from atelier.gan.loader import BatchLoader

from ..support.architectures import SMALL, with_changes


@pytest.mark.parametrize("latents", ["normal", "uniform"])
def test_latents_have_the_moments_of_their_distribution(latents: str) -> None:
    arch = with_changes(SMALL, latent_size=500, latent_distribution=latents)
    samples = random_latents(200, arch, torch.Generator().manual_seed(1)).double()
    assert samples.shape == (200, 500)
    count = samples.numel()
    variance, fourth = (1, 3) if latents == "normal" else (1 / 3, 1 / 5)
    assert float(samples.mean()) == pytest.approx(0, abs=4 * math.sqrt(variance / count))
    assert float((samples**2).mean()) == pytest.approx(variance, rel=0.02)
    assert float((samples**4).mean()) == pytest.approx(fourth, rel=0.03)
    if latents == "uniform":
        assert -1 <= float(samples.min()) < -0.999
        assert 0.999 < float(samples.max()) <= 1


def test_one_hot_labels_follow_latents_and_alternate_by_default() -> None:
    arch = with_changes(SMALL, latent_size=2, classes=3)
    plain = draw_latents(4, with_changes(arch, classes=0), seed=5)
    alternating = draw_latents(4, arch, seed=5)
    assert torch.equal(alternating[:, :2], plain)
    assert alternating[:, 2:].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    latents = draw_latents(2, arch, seed=5, labels=[2, 0])
    assert latents[:, 2:].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert latents.dtype == torch.float32
    labels = split_labels(latents, arch)
    assert labels is not None
    assert torch.equal(labels, latents[:, 2:])
    assert split_labels(plain, with_changes(arch, classes=0)) is None
    double = with_labels(plain[:1].double(), torch.tensor([1]), arch)
    assert double.dtype == torch.float64
    assert double[0, 2:].tolist() == [0, 1, 0]
    assert not torch.equal(draw_latents(4, arch, seed=6), alternating)


class LatentImages(nn.Module):
    """Generator that returns latents [B, 3] as images of one pixel and records batch sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm1d(3, eps=0)
        self.batches: list[int] = []

    def forward(self, latents: Tensor) -> Tensor:
        self.batches.append(len(latents))
        images: Tensor = (self.norm(latents) * self.factor)[:, :, None, None]
        return images


@pytest.mark.parametrize("training", [True, False])
def test_images_are_generated_in_batches_in_evaluation_mode(training: bool) -> None:
    generator = LatentImages().train(training)
    latents = to_tensor(torch.arange(21, dtype=torch.uint8).view(7, 1, 1, 3), signed=True)[
        :, :, 0, 0
    ]
    images = generate(generator, latents, batch_size=3)
    assert images.dtype == np.uint8
    assert images.tolist() == torch.arange(21).view(7, 1, 1, 3).tolist()
    assert generator.batches == [3, 3, 1]
    assert generator.training is training
    generate(generator, latents.repeat(37, 1)[:257])
    assert generator.batches[3:] == [256, 1]


def test_mode_of_failing_generator_is_restored() -> None:
    generator = LatentImages()
    with pytest.raises(RuntimeError):
        generate(generator, torch.zeros(2, 4))
    assert generator.training


def test_loader_yields_batches_in_index_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), dtype=np.uint8)
    loader = BatchLoader(pixels, torch.device("cpu"))
    parts = [torch.tensor([8, 0, 3]), torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
    assert len(loader) == 9
    for part, batch in zip(parts, loader.batches(parts), strict=True):
        assert np.array_equal(batch.numpy(), pixels[part.numpy()])
    loader._on_device = torch.from_numpy(255 - pixels)  # as on a GPU
    for part, batch in zip(parts, loader.batches(parts), strict=True):
        assert np.array_equal(batch.numpy(), 255 - pixels[part.numpy()])


def test_loader_prefetches_one_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory is pinned for GPUs only, so this test replaces pin_memory."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    loader = BatchLoader(pixels, torch.device("cpu"))
    parts = [torch.tensor([n, 5 - n]) for n in range(4)]
    assert [b.flatten().tolist() for b in loader._prefetch(parts)] == [p.tolist() for p in parts]
    assert list(loader._prefetch([])) == []
    gathered: list[int] = []
    gather = loader._gather

    def record(indices: Tensor) -> Tensor:
        gathered.append(int(indices[0]))
        return gather(indices)

    monkeypatch.setattr(loader, "_gather", record)
    batches = loader._prefetch(parts)
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator; waits for the prefetched batch
    assert gathered == [0, 1]
