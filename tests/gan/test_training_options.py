"""Training options: EMA, spectral norm, gradient clipping, classes and the best epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from atelier.core.checkpoints import Checkpoints
from atelier.core.errors import AtelierError
from atelier.core.random_streams import derive_seed
from atelier.core.settings import Settings
from atelier.gan.fit import save_models
from atelier.gan.generation import draw_latents, generate, split_labels
from atelier.gan.history import History
from atelier.gan.model import EMA, build_gan, lerp_in_few_launches
from atelier.gan.networks import Architecture, Discriminator, Generator, build_networks
from atelier.gan.resume_rollback import Resumption, train_epochs
from atelier.gan.serialization import load_generator, read_metadata, save_network
from atelier.gan.step import Batch, train_step
from atelier.gan.trainer import Trainer
from atelier.metrics.validation import validation_settings

from ..support.architectures import CELEBA64, FASHION_MLP, SMALL, with_changes
from ..support.divergence import NanWeights

CPU = torch.device("cpu")
TINY = {
    "epochs": 4,
    "batch_size": 8,
    "generator_channels": 4,
    "discriminator_channels": 4,
    "latent_size": 8,
    "fixed_samples": 6,
    "precision": "fp32",
}
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("weight", [0.001, 0.3, 9 / 11])
def test_interpolation_in_few_launches_equals_lerp(weight: float) -> None:
    averages = [torch.randn(size, dtype=torch.float64) for size in (3, 70, 1000)]
    values = [torch.randn_like(average) for average in averages]
    expected = [torch.lerp(*pair, weight) for pair in zip(averages, values, strict=True)]
    lerp_in_few_launches(averages, values, torch.tensor(weight, dtype=torch.float64))
    torch.testing.assert_close(averages, expected, rtol=0, atol=1e-14)


def test_ema_matches_its_formula() -> None:
    generator, _ = build_networks(SMALL, seed=1)
    ema = EMA(generator, decay=0.6)
    expected = {name: t.clone().double() for name, t in generator.state_dict().items()}
    for step in range(1, 30):
        with torch.no_grad():
            for number, tensor in enumerate(generator.state_dict().values()):
                tensor.add_(number + step % 3)
        ema.update(generator)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, tensor in generator.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    counts = [name for name in expected if name.endswith("num_batches_tracked")]
    for name, tensor in ema.generator.state_dict().items():
        expected_value = generator.state_dict()[name] if name in counts else expected[name].float()
        torch.testing.assert_close(tensor, expected_value, rtol=1e-5, atol=1e-5, msg=name)
    assert counts
    assert not ema.generator.training


def test_samples_and_files_use_ema_and_training_does_not(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    plain = Trainer(make_settings(train=TINY).train, PIXELS, CPU)
    averaged = Trainer(make_settings(train={**TINY, "ema_decay": 0.9}).train, PIXELS, CPU)
    *_, last = plain.run()
    *_, last_averaged = averaged.run()
    assert np.array_equal(last.statistics, last_averaged.statistics)
    assert not np.array_equal(last.samples, last_averaged.samples)
    save_models(averaged, tmp_path)
    generator = load_generator(tmp_path / "generator.safetensors").network
    latents = draw_latents(
        6, averaged.arch, derive_seed(averaged.settings.seed, "train.fixed_latents")
    )
    assert np.array_equal(generate(generator, latents), last_averaged.samples)


@pytest.mark.parametrize(
    "arch",
    [
        with_changes(CELEBA64, discriminator_channels=8, spectral_norm=True),
        with_changes(SMALL, discriminator_head="linear", spectral_norm=True),
        with_changes(FASHION_MLP, spectral_norm=True),
        with_changes(
            SMALL, discriminator_norm=False, discriminator_blocks="residual", spectral_norm=True
        ),
    ],
    ids=["dcgan", "linear", "mlp", "residual"],
)
def test_spectral_norm_of_every_layer_is_one(arch: Architecture, tmp_path: Path) -> None:
    _, discriminator = build_networks(arch, seed=1)
    images = torch.rand(2, arch.channels, arch.image_size, arch.image_size)
    with torch.autocast("cpu", torch.bfloat16):  # power iteration would be inaccurate in bfloat16
        for _ in range(60):
            discriminator(images)
    discriminator.eval()
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, abs=0.01)
    # The saved network loads and returns the same logits.
    save_network(discriminator, arch, tmp_path / "d.safetensors")
    other = Discriminator(arch) if not arch.spectral_norm else build_networks(arch, seed=2)[1]
    other.load_state_dict(load_file(tmp_path / "d.safetensors"))
    assert torch.equal(other.eval()(images), discriminator(images))


def test_gradient_norm_is_clipped(make_settings: Callable[..., Settings]) -> None:
    lengths = {}
    for clip in (0.0, 0.01):
        settings = make_settings(train={**TINY, "grad_clip": clip}).train
        arch = Architecture.from_settings(settings, 16, 3)
        gan = build_gan(arch, settings, CPU)
        train_step(gan, Batch(torch.zeros(8, 3, 16, 16), draw_latents(8, arch, 1)))
        lengths[clip] = [
            float(torch.stack([p.grad.norm() for p in n.parameters() if p.grad is not None]).norm())
            for n in (gan.generator, gan.discriminator)
        ]
    assert all(length > 0.01 for length in lengths[0.0])
    assert lengths[0.01] == pytest.approx([0.01, 0.01], rel=1e-3)


def test_each_network_has_its_own_learning_rate(make_settings: Callable[..., Settings]) -> None:
    """Adam's first step changes a weight by the learning rate, for any gradient."""
    settings = make_settings(train={**TINY, "lr": 0.001, "discriminator_lr": 0.004}).train
    arch = Architecture.from_settings(settings, 16, 3)
    gan = build_gan(arch, settings, CPU)
    networks = (gan.generator, gan.discriminator)
    before = [next(network.parameters()).detach().clone() for network in networks]
    train_step(gan, Batch(torch.zeros(8, 3, 16, 16), draw_latents(8, arch, 1)))
    after = [next(network.parameters()).detach() for network in networks]
    steps = [float((a - b).abs().max()) for a, b in zip(after, before, strict=True)]
    assert steps == pytest.approx([0.001, 0.004], rel=1e-2)


def test_both_learning_rates_follow_the_schedule(make_settings: Callable[..., Settings]) -> None:
    changes = {"lr": 0.001, "discriminator_lr": 0.004, "schedule": "linear"}
    trainer = Trainer(make_settings(train={**TINY, **changes}).train, PIXELS, CPU)
    rates: list[tuple[float, float]] = []

    def record_rates() -> None:
        optimizers = (trainer.gan.generator_optimizer, trainer.gan.discriminator_optimizer)
        first, second = (float(optimizer.param_groups[0]["lr"]) for optimizer in optimizers)
        rates.append((first / 0.001, second / 0.004))

    list(trainer.run(after_step=record_rates))
    assert rates == [pytest.approx([remaining / 8] * 2) for remaining in range(8, 0, -1)]


def test_lazy_penalty_is_scaled_by_its_interval(
    make_settings: Callable[..., Settings],
) -> None:
    """Compute the penalty's gradient as the difference of gradients with and without it."""

    def gradient(with_penalty: bool, **changes: Any) -> torch.Tensor:
        settings = make_settings(train={**TINY, "discriminator_norm": False, **changes}).train
        arch = Architecture.from_settings(settings, 16, 3)
        gan = build_gan(arch, settings, CPU)
        real = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        train_step(gan, Batch(real, draw_latents(8, arch, 1), with_penalty=with_penalty))
        return torch.cat(
            [p.grad.flatten() for p in gan.discriminator.parameters() if p.grad is not None]
        )

    plain = gradient(False, r1=50.0)
    once = gradient(True, r1=50.0) - plain
    four = gradient(True, r1=50.0, penalty_interval=4) - plain
    assert float(once.abs().max()) > 0.01 * float(plain.abs().max())
    torch.testing.assert_close(four, 4 * once, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("size", [16, 28, 32])
@pytest.mark.parametrize("blocks", ["upsample", "residual"])
@pytest.mark.parametrize("relu_first", [False, True])
def test_blocks_support_every_size(size: int, blocks: Any, relu_first: bool) -> None:
    arch = with_changes(
        SMALL,
        image_size=size,
        generator_blocks=blocks,
        relu_before_norm=relu_first,
        discriminator_blocks="residual",
        discriminator_norm=False,
        classes=3,
    )
    generator, discriminator = build_networks(arch, seed=0)
    latents = draw_latents(6, arch, seed=1)
    assert latents.shape == (6, 8 + 3)
    images = generator(latents)
    assert images.shape == (6, 3, size, size)
    assert float(images.detach().std()) > 0
    labels = split_labels(latents, arch)
    assert labels is not None
    logits = discriminator(images, labels)
    assert logits.shape == (6,)
    assert float(logits.detach().std()) > 0


def test_residual_block_adds_its_shortcut() -> None:
    from atelier.gan.networks import DownResBlock, UpResBlock

    maps = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for block in (UpResBlock(4, 6, 16, False).eval(), DownResBlock(4, 6)):
        before = maps.clone()
        output = block(maps)
        assert torch.equal(maps, before), "the layers must not change the maps in place"
        torch.nn.init.zeros_(block.layers[-1].weight)
        if block.layers[-1].bias is not None:
            torch.nn.init.zeros_(block.layers[-1].bias)
        shortcut = block(maps)
        assert output.shape == shortcut.shape
        assert not torch.equal(output, shortcut)
        resized = (
            torch.nn.functional.interpolate(maps, scale_factor=2.0, mode="nearest")
            if isinstance(block, UpResBlock)
            else torch.nn.functional.avg_pool2d(maps, 2)
        )
        torch.testing.assert_close(shortcut, block.shortcut(resized))


COLORS = np.array([[220, 30, 30], [30, 200, 40], [40, 50, 220]], np.uint8)


def test_conditional_generator_returns_requested_class(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    """The three classes are plain red, green and blue images."""
    labels = np.arange(96) % 3
    pixels = np.broadcast_to(COLORS[labels][:, None, None], (96, 16, 16, 3)).copy()
    changes = {"generator_channels": 8, "discriminator_channels": 8, "epochs": 25, "lr": 0.002}
    settings = make_settings(train={**TINY, **changes, "conditional": True}).train
    trainer = Trainer(settings, pixels, CPU, labels=labels)
    *_, last = trainer.run()
    assert trainer.columns == 2
    rows = last.samples.reshape(3, 2, 16, 16, 3).mean(axis=(1, 2, 3))
    assert rows.argmax(axis=1).tolist() == [0, 1, 2], "each row of the montage is one class"
    save_models(trainer, tmp_path)
    loaded = load_generator(tmp_path / "generator.safetensors")
    generator, arch = loaded.network, loaded.arch
    assert arch.classes == 3
    requested = [2, 0, 1, 1, 0, 2, 2]
    images = generate(generator, draw_latents(7, arch, seed=5, labels=requested))
    assert images.mean(axis=(1, 2)).argmax(axis=1).tolist() == requested
    alternating = generate(generator, draw_latents(9, arch, seed=6))
    assert alternating.mean(axis=(1, 2)).argmax(axis=1).tolist() == [0, 1, 2] * 3


@pytest.mark.parametrize(
    ("changes", "labels", "sentence"),
    [
        ({}, None, "the images do not have several classes; set it to false"),
        ({}, np.zeros(16, np.int64), "the images do not have several classes"),
        (
            {"fixed_samples": 7},
            np.arange(16) % 3,
            "is not a multiple of the 3 classes; set it to 6",
        ),
        ({"fixed_samples": 1}, np.arange(16) % 3, "set it to 3"),
    ],
)
def test_invalid_classes_are_rejected(
    make_settings: Callable[..., Settings], changes: Any, labels: Any, sentence: str
) -> None:
    settings = make_settings(train={**TINY, **changes, "conditional": True}).train
    with pytest.raises(AtelierError, match=sentence):
        Trainer(settings, PIXELS, CPU, labels=labels)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r1": 1.0}, "mixes the images of a batch; set discriminator_norm to false"),
        ({"loss": "wgan"}, "needs a smooth discriminator; set gradient_penalty to 10"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing is of loss: bce"),
        ({"network": "mlp", "generator_blocks": "residual"}, "set generator_blocks and"),
        ({"discriminator_blocks": "residual"}, "set discriminator_norm to false"),
        ({"select_model": "best", "kid_every_epochs": 0}, "set kid_every_epochs to 1 or more"),
        ({"spectral_norm": True}, "undoes the division by spectral_norm; set discriminator_norm"),
        ({"dropout": 0.3}, "dropout is of network: mlp; set it to 0"),
        ({"penalty_interval": 4}, "penalty_interval has no penalty to apply; set it to 1"),
        ({"augment": ["colour"]}, "augment"),
        ({"kid_features": "mine.pth"}, "kid_features takes no file of weights"),
    ],
)
def test_contradictory_settings_are_rejected(
    make_settings: Callable[..., Settings], changes: Any, sentence: str
) -> None:
    with pytest.raises(AtelierError, match=sentence):
        make_settings(train=changes)


def test_validation_settings_do_not_depend_on_evaluate_section(
    make_settings: Callable[..., Settings],
) -> None:
    with pytest.raises(AtelierError, match=r"params.yaml: train.select_model: best needs images"):
        make_settings(
            train={"kid_every_epochs": 1, "select_model": "best"},
            convert={"validation_fraction": 0.0},
        )
    changes = {"kid_features": "inception", "kid_samples": 100, "seed": 7}
    validation = validation_settings(make_settings(train=changes).train)
    assert validation.nearest_neighbor_pool == 10_000
    assert (validation.features, validation.samples, validation.seed) == ("inception", 100, 7)


def test_unscored_networks_have_no_metadata(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    trainer = Trainer(make_settings(train={**TINY, "ema_decay": 0.5}).train, PIXELS, CPU)
    save_models(trainer, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["discriminator.safetensors", "generator.safetensors"]
    assert read_metadata(files[0]) == read_metadata(files[1]) == {}
    for file, network in zip(
        files, (trainer.gan.discriminator, trainer.gan.eval_generator), strict=True
    ):
        state = load_file(file)
        assert all(torch.equal(state[key], t) for key, t in network.state_dict().items())


class Scores:
    """Quality function that returns fixed scores and records the images."""

    def __init__(self, *numbers: float) -> None:
        self.numbers, self.images = list(numbers), list[np.ndarray]()

    def __call__(self, images: np.ndarray) -> float:
        self.images.append(images)
        return self.numbers[len(self.images) - 1]


@pytest.mark.parametrize("select", ["last", "best"])
def test_best_and_last_generators_are_saved(
    make_settings: Callable[..., Settings], tmp_path: Path, select: str
) -> None:
    changes = {
        "epochs": 5,
        "kid_every_epochs": 2,
        "kid_samples": 16,
        "select_model": select,
        "ema_decay": 0.5,
    }
    settings = make_settings(train={**TINY, **changes}).train
    scores, history = Scores(0.5, 0.125, 0.25), History()
    trainer = Trainer(settings, PIXELS, CPU, quality_fn=scores)
    epochs = list(trainer.run())
    assert [epoch.quality for epoch in epochs] == [None, 0.5, None, 0.125, 0.25]
    save_models(trainer, tmp_path)
    files = {path.stem: path for path in tmp_path.glob("*.safetensors")}
    assert set(files) == {"generator", "discriminator", "last", "best"}
    assert read_metadata(files["best"]) == {"epoch": 4, "kid": 0.125}
    assert read_metadata(files["last"]) == {"epoch": 5, "kid": 0.25}
    assert files["generator"].read_bytes() == files[select].read_bytes()
    latents = draw_latents(16, trainer.arch, derive_seed(settings.seed, "train.measured_latents"))
    for name, images in (("best", scores.images[1]), ("last", scores.images[2])):
        generator = load_generator(files[name]).network
        assert np.array_equal(generate(generator, latents), images)
    for epoch in epochs:
        history.add(epoch)
    history.write(tmp_path / "losses.csv", tmp_path / "quality.csv")
    assert (tmp_path / "quality.csv").read_text() == "epoch,kid\n2,0.5\n4,0.125\n5,0.25\n"
    assert history.details()["best_epoch"] == 4
    assert history.details()["best_kid"] == 0.125


def test_rollback_restores_best_model_and_ema(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    changes = {"kid_every_epochs": 1, "ema_decay": 0.5, "horizontal_flip": True}
    settings = make_settings(train={**TINY, **changes}).train
    trainer = Trainer(settings, PIXELS, CPU, quality_fn=Scores(0.5, 0.25, 0.75, 0.5))
    nan_weights = NanWeights(trainer, steps=5, times=1)
    epochs = list(train_epochs(trainer, Resumption(Checkpoints(tmp_path), nan_weights)))
    assert [epoch.quality for epoch in epochs] == [0.5, 0.25, 0.75, 0.5]
    assert (trainer.rollbacks, trainer.best_model.best_epoch) == (1, 2)
    generators = (trainer.gan.eval_generator, trainer.best_model.best_generator(trainer.arch))
    assert all(bool(t.isfinite().all()) for g in generators for t in g.state_dict().values())


def test_header_omits_default_fields(tmp_path: Path) -> None:
    import json

    from safetensors import safe_open

    generator, _ = build_networks(SMALL, seed=1)
    save_network(generator, SMALL, tmp_path / "g.safetensors")
    with safe_open(tmp_path / "g.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["architecture"])
    assert sorted(header) == [
        "channels", "discriminator_channels", "discriminator_head", "discriminator_norm",
        "discriminator_padding", "dropout", "generator_channels", "head_size", "image_size",
        "latent_distribution", "latent_size", "network", "relu_before_norm",
    ]  # fmt: skip
    assert load_generator(tmp_path / "g.safetensors").arch == SMALL
    assert isinstance(load_generator(tmp_path / "g.safetensors").network, Generator)
