"""Fused training steps give the results of plain ones, up to rounding."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.events import Events
from atelier.core.settings import TrainSettings
from atelier.gan.augment import UNIFORMS_PER_IMAGE
from atelier.gan.fused import fuse
from atelier.gan.generation import random_latents, with_labels
from atelier.gan.model import GAN, build_gan
from atelier.gan.networks import Architecture, Discriminator, Generator
from atelier.gan.step import Batch, train_step
from atelier.gan.step_runner import StepRunner
from atelier.gan.streams import RandomStreams

from ..support.architectures import SMALL, architecture, train_settings, with_changes
from ..support.fake_cuda import CUDA, Counts, count_operations, fake_cuda
from ..support.selection import slow_after

BATCH = 4
UNNORMALIZED = {"discriminator_norm": False}


def build(
    arch: Architecture, settings: TrainSettings, dtype: torch.dtype = torch.float64, **changes: Any
) -> GAN:
    """Return a GAN on the CPU with weights of this type."""
    gan = build_gan(arch, settings.model_copy(update=changes), torch.device("cpu"))
    for network in (gan.generator, gan.discriminator, gan.ema.generator if gan.ema else None):
        if network:
            network.to(dtype)
    return gan


def draw_batch(gan: GAN, seed: int) -> Batch:
    """Return images, latents and random numbers of the type of the weights."""
    arch, dtype = gan.arch, next(gan.generator.parameters()).dtype
    stream = torch.Generator().manual_seed(seed)
    shape = (BATCH, arch.channels, arch.image_size, arch.image_size)
    latents = random_latents(BATCH, arch, stream)
    if arch.classes:
        latents = with_labels(latents, torch.arange(BATCH) % arch.classes, arch)
    return Batch(
        (torch.rand(shape, generator=stream) * 2 - 1).to(dtype),
        latents.to(dtype),
        torch.rand(BATCH, UNIFORMS_PER_IMAGE, generator=stream),
        with_penalty=gan.settings.has_penalty,
    )


def assert_equal_after_steps(plain: GAN, fused: GAN, steps: int, tolerance: float = 1e-10) -> None:
    """Assert equal weights, running statistics, moments, averages and statistics."""
    for step in range(steps):
        batch = draw_batch(plain, step)
        torch.testing.assert_close(
            train_step(fused, batch), train_step(plain, batch), rtol=1e-6, atol=1e-6
        )
    expected = plain.state()
    found = fused.state()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize(
    "preset", slow_after(3, ["faces32", "mnist28", "fashion_mlp", "celeba64", "cifar10"])
)
def test_fused_steps_equal_plain_ones_of_the_tutorials(preset: str) -> None:
    settings = train_settings(preset, dropout=0.0)
    arch = with_changes(architecture(preset), dropout=0.0)
    assert_equal_after_steps(build(arch, settings), build(arch, settings, fused="auto"), steps=2)


def test_fused_steps_with_frozen_layers_equal_plain_ones() -> None:
    settings = train_settings("celeba64", freeze_discriminator=1, start_from={"first": "networks"})
    assert_equal_after_steps(build(SMALL, settings), build(SMALL, settings, fused="auto"), steps=2)


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.9, "grad_clip": 0.01, "label_smoothing": 0.1},
        {"loss": "relativistic"},
        {"loss": "hinge"} | UNNORMALIZED,
        {"loss": "lsgan"},
        {"generator_blocks": "residual", "discriminator_blocks": "residual"} | UNNORMALIZED,
        {"generator_blocks": "upsample", "discriminator_head": "linear"},
        {"relu_before_norm": True, "discriminator_padding": 1},
        {"classes": 3},
    ],
    ids=str,
)
def test_fused_steps_equal_plain_ones_with_options(changes: dict[str, Any]) -> None:
    network = {key: value for key, value in changes.items() if key in Architecture.model_fields}
    options = {key: value for key, value in changes.items() if key != "classes"}
    arch = with_changes(SMALL, **network)
    settings = train_settings("celeba64", **options)
    assert_equal_after_steps(build(arch, settings), build(arch, settings, fused="auto"), steps=2)


def test_fused_steps_equal_plain_ones_with_augmentation_in_float32() -> None:
    """Compare moments, with a rate at which the sign of a vanishing gradient does not matter."""
    changes = {"horizontal_flip": True, "augment": ["color", "translation", "cutout"]}
    settings = train_settings("celeba64", lr=1e-7, precision="fp32", **changes)
    plain = build(SMALL, settings, torch.float32)
    fused = build(SMALL, settings, torch.float32, fused="auto")
    assert_equal_after_steps(plain, fused, steps=2, tolerance=1e-5)


def test_running_statistics_come_from_the_real_batch_and_then_from_the_generated_one() -> None:
    settings = train_settings("celeba64")
    plain, fused = build(SMALL, settings), build(SMALL, settings)
    real, fake = (draw_batch(plain, seed).real for seed in (1, 2))
    logits = fused.discriminator.forward_pair(real, fake)
    expected = plain.discriminator(real), plain.discriminator(fake)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    other = build(SMALL, settings)
    other.discriminator(fake)
    other.discriminator(real)

    def means(gan: GAN) -> Tensor:
        return torch.cat([b for n, b in gan.discriminator.named_buffers() if "running_mean" in n])

    torch.testing.assert_close(means(fused), means(plain), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(means(fused), means(other)), "the order matters"


def test_fused_step_has_fewer_launches() -> None:
    """Count without torch.compile, which cannot run on fake CUDA tensors."""
    with fake_cuda(), pytest.MonkeyPatch.context() as patch:
        compiled: list[int] = []

        def fuse_only(generator: Generator, discriminator: Discriminator, batch: int) -> None:
            compiled.append(batch)
            fuse(generator, discriminator, 0)

        patch.setattr("atelier.gan.model.fuse", fuse_only)
        plain, fused = (count_step(fused) for fused in ("none", "auto"))
    assert compiled == [128], "a GPU compiles steps of whole batches"
    assert plain.total <= 198
    assert fused.total <= 189
    for name, launches in {
        "convolution": (20, 12),
        "convolution_backward": (20, 12),
        "mm": (0, 7),
        "leaky_relu_": (12, 8),
    }.items():
        assert (plain.launches.get(name, 0), fused.launches.get(name, 0)) == launches, name


def count_step(fused: str) -> Counts:
    settings = train_settings("celeba64", precision="bf16", fused=fused)
    arch = architecture("celeba64")
    gan = build_gan(arch, settings, CUDA)
    batch = Batch(
        torch.empty(128, 64, 64, 3, dtype=torch.uint8, device=CUDA),
        torch.empty(128, arch.latent_size, device=CUDA),
    )
    train_step(gan, batch)
    with count_operations() as counts:
        train_step(gan, batch)
    assert counts.syncs == []
    return counts


@pytest.fixture
def compiled_functions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the functions that are called compiled; they are traced but run uncompiled."""
    names: list[str] = []
    real_compile = torch.compile

    def compile_without_backend(function: Callable[..., Tensor], **options: Any) -> Any:
        traced = real_compile(function, backend="aot_eager", **options)

        def run(*arguments: Any) -> Any:
            names.append(function.__name__)
            return traced(*arguments)

        return run

    monkeypatch.setattr("atelier.gan.fused.torch.compile", compile_without_backend)
    return names


@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_compiled_steps_equal_plain_ones(
    monkeypatch: pytest.MonkeyPatch, compiled_functions: list[str]
) -> None:
    """The networks are traced without a break, as for a GPU; samples and other sizes are not."""
    monkeypatch.setattr("atelier.gan.model.fuse", lambda g, d, _: fuse(g, d, BATCH))
    # On CPUs with AMX, bfloat16 layers ask for the CPU's features, which breaks the trace.
    settings = train_settings("celeba64", ema_decay=0.9, precision="fp32")
    plain, fused = build(SMALL, settings), build(SMALL, settings, fused="auto")
    assert_equal_after_steps(plain, fused, steps=2)
    assert compiled_functions == ["run_layers", "run_layers_on_pair", "run_layers"] * 2
    assert fused.ema is not None
    with torch.no_grad():
        fused.ema.generator(torch.zeros(BATCH, SMALL.input_size, dtype=torch.float64))
    batch = draw_batch(fused, 5).first(BATCH - 1)
    torch.testing.assert_close(train_step(fused, batch), train_step(plain, batch))
    assert len(compiled_functions) == 6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler for CPUs needs g++")
@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_steps_compiled_for_a_cpu_equal_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier.gan.model.fuse", lambda g, d, _: fuse(g, d, BATCH))
    settings = train_settings("celeba64", precision="fp32")
    plain, fused = build(SMALL, settings), build(SMALL, settings, fused="auto")
    assert_equal_after_steps(plain, fused, steps=3)


@pytest.mark.filterwarnings("ignore")  # of torch.compile
def test_networks_that_cannot_be_compiled_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("there is no C compiler\nand more")

    real_compile = torch.compile
    monkeypatch.setattr(
        "atelier.gan.fused.torch.compile",
        lambda function, **options: real_compile(function, backend=fail, **options),
    )
    monkeypatch.setattr("atelier.gan.model.fuse", lambda g, d, _: fuse(g, d, BATCH))
    settings = train_settings("celeba64", precision="fp32", fused="auto")
    gan = build(SMALL, settings)
    device = torch.device("cpu")
    runner = StepRunner(RandomStreams(1, device), device, Events())
    with pytest.raises(AtelierError, match=r"cannot be compiled here \(.*C compiler.*to none\.$"):
        runner.run(gan, draw_batch(gan, 1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spectral_norm": True} | UNNORMALIZED, "spectral_norm iterates"),
        ({"network": "mlp", "dropout": 0.3}, "dropout draws random numbers"),
        ({"r1": 1.0} | UNNORMALIZED, "penalties need second derivatives"),
        ({"precision": "tf32"}, "torch.compile does not support precision: tf32"),
    ],
)
def test_settings_that_no_fused_step_supports_are_refused(
    changes: dict[str, Any], reason: str
) -> None:
    sentence = f"fused: auto is impossible, because {reason}.*; set fused to none"
    with pytest.raises(ValueError, match=sentence):
        train_settings("celeba64", **changes, fused="auto")
