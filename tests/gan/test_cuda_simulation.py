"""Launches and synchronizations of training steps, counted on a simulated GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.settings import Settings
from atelier.gan import distributed
from atelier.gan.distributed import SINGLE_PROCESS, Ranks, SyncBatchNorm
from atelier.gan.loader import BatchLoader
from atelier.gan.model import GAN, build_gan
from atelier.gan.step import Batch, train_step
from atelier.gan.trainer import Trainer
from atelier.metrics.distances import compute_kid

from ..support.architectures import CELEBA64
from ..support.fake_cuda import CUDA, Counts, count_operations, fake_cuda

BATCH = 128


def count_step(
    settings: Settings, with_penalty: bool = False, ranks: Ranks = SINGLE_PROCESS
) -> Counts:
    """Count the operations of a training step, after a first one that builds the moments."""
    gan = build_gan(CELEBA64, settings.train, CUDA, ranks)
    train_step(gan, batch(gan, with_penalty))
    with count_operations() as counts:
        train_step(gan, batch(gan, with_penalty))
    return counts


def batch(gan: GAN, with_penalty: bool) -> Batch:
    real = torch.empty(BATCH, 64, 64, 3, dtype=torch.uint8, device=CUDA)
    latents = torch.empty(BATCH, gan.arch.latent_size, device=CUDA)
    uniforms = torch.empty(BATCH, gan.uniforms_per_image, device=CUDA)
    return Batch(real, latents, uniforms, with_penalty=with_penalty)


@pytest.mark.parametrize(
    ("changes", "launches"),
    [
        ({"precision": "fp32"}, 162),
        ({"precision": "bf16"}, 198),
        ({"precision": "bf16", "ema_decay": 0.9}, 212),
        ({"precision": "bf16", "grad_clip": 1.0}, 214),
        ({"precision": "bf16", "freeze_discriminator": 2, "start_from": {"a": "b"}}, 184),
    ],
)
def test_launches_of_a_step(
    make_settings: Callable[..., Settings], changes: dict[str, Any], launches: int
) -> None:
    with fake_cuda():
        counts = count_step(make_settings(train={**changes, "batch_size": BATCH}))
    assert counts.syncs == []
    assert counts.total <= launches, counts.launches


PENALIZED = {
    "precision": "bf16",
    "loss": "hinge",
    "ema_decay": 0.9,
    "r1": 1.0,
    "discriminator_norm": False,
    "spectral_norm": True,
    "augment": ["color", "translation", "cutout"],
    "horizontal_flip": True,
    "grad_clip": 1.0,
}


def test_launches_of_a_step_with_penalties(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={**PENALIZED, "batch_size": BATCH})
    with fake_cuda():
        counts = count_step(settings, with_penalty=True)
    assert counts.syncs == []
    assert counts.total <= 784, counts.launches


def test_check_of_an_epoch_takes_few_launches(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={"batch_size": BATCH}).train
    trainer = Trainer(settings, np.zeros((4, 64, 64, 3), np.uint8), torch.device("cpu"))
    with fake_cuda():
        trainer.gan = build_gan(CELEBA64, settings, CUDA)
        trainer._step_rows = [torch.empty(5, device=CUDA) for _ in range(1583)]
        with count_operations() as counts:
            trainer.is_finite()
    assert counts.total <= 10, counts.launches
    assert len(counts.syncs) == 1


def test_batches_need_one_upload_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (2**33, 2**33))
    with fake_cuda():
        loader = BatchLoader(np.zeros((300, 8, 8, 3), np.uint8), CUDA)
        indices = torch.zeros(300, dtype=torch.int64).split(32)
        with count_operations() as counts:
            sizes = [len(images) for images in loader.batches(indices)]
        assert list(loader.batches([])) == [], "of an epoch whose steps are all done"
    assert sizes == [32] * 9 + [12]
    assert counts.launches == {"index.Tensor": 10}
    assert len(counts.syncs) + counts.uploads == 1


def test_kid_is_computed_on_the_device() -> None:
    with fake_cuda():
        real, generated = torch.ones(500, 64, device=CUDA), torch.ones(400, 64, device=CUDA)
        with count_operations() as counts:
            compute_kid(real, generated)
    assert {sync.split(" ")[0] for sync in counts.syncs} == {"_local_scalar_dense"}
    assert len(counts.syncs) <= 6, counts.syncs
    assert counts.total <= 100, counts.launches


def test_synchronized_batch_norm_needs_few_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[int] = []
    monkeypatch.setattr(distributed, "_all_reduce", lambda tensor: reduced.append(tensor.numel()))
    with fake_cuda():
        norm = SyncBatchNorm(8, device=CUDA)
        images = torch.ones(4, 8, 5, 5, device=CUDA, requires_grad=True)
        with count_operations() as counts:
            norm(images).sum().backward()
    assert reduced == [9, 8, 8, 9]  # sums and count, variances, and their gradients
    assert counts.syncs == []


def test_collectives_of_a_step_of_several_processes(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced: list[int] = []
    monkeypatch.setattr(distributed, "_all_reduce", lambda tensor: reduced.append(tensor.numel()))
    settings = make_settings(train={"precision": "bf16", "batch_size": BATCH})
    with fake_cuda():
        counts = count_step(settings, ranks=Ranks(0, 2))
    # 4 in each of 13 batch normalizations, 2 of gradients and 1 of statistics; in two steps.
    assert len(reduced) <= 2 * 55, len(reduced)
    assert counts.syncs == []
    assert counts.total <= 794, counts.launches


def test_counter_finds_synchronizations() -> None:
    with fake_cuda():
        numbers = torch.ones(3, device=CUDA)
        with count_operations() as counts:
            numbers.sum().item()
            bool(numbers.isfinite().all())
            numbers.new_tensor([1.0])
            torch.tensor([1.0, 2.0], device=CUDA)
            numbers.cpu()
            numbers.copy_(torch.ones(3))
            torch.ones(3).to(CUDA, non_blocking=True)
            torch.full((), 2.0, device=CUDA)
            numbers.view(1, 3).t()
    names = [sync.split(".")[0].split(" ")[0] for sync in counts.syncs]
    assert names == ["_local_scalar_dense"] * 2 + ["_to_copy"] * 3 + ["copy_"]
    assert counts.uploads == 1
    assert set(counts.launches) == {
        "sum",
        "full",
        *("abs", "eq.Tensor", "ne.Scalar", "mul.Tensor", "all"),  # isfinite().all()
    }
