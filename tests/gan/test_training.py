from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.errors import AtelierError
from atelier.core.settings import Settings
from atelier.gan.generation import draw_latents, generate
from atelier.gan.history import History
from atelier.gan.networks import build_networks
from atelier.gan.sample_files import load_epochs, save_samples
from atelier.gan.serialization import load_generator, save_network
from atelier.gan.trainer import Trainer

from ..support.architectures import SMALL as SMALL_ARCH
from ..support.architectures import with_changes
from ..support.events import RecordedEvents

CPU = torch.device("cpu")
SMALL = {
    "epochs": 2,
    "batch_size": 8,
    "generator_channels": 4,
    "discriminator_channels": 4,
    "latent_size": 8,
    "fixed_samples": 5,
}


def pixels(count: int = 20, size: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def test_each_epoch_uses_every_image_once(
    make_settings: Callable[..., Settings],
) -> None:
    events = RecordedEvents()
    trainer = Trainer(make_settings(train=SMALL).train, pixels(20), CPU, events=events)
    epochs = list(trainer.run())
    reports = events.progress
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert [epoch.first_step for epoch in epochs] == [0, 3]
    assert all(epoch.statistics.shape == (3, 5) for epoch in epochs)
    assert all(epoch.samples.shape == (5, 16, 16, 3) for epoch in epochs)
    assert epochs[0].samples.dtype == np.uint8
    assert reports[-1].done == reports[-1].total == 6
    assert "Loss_D" in reports[-1].note
    assert not np.array_equal(epochs[0].samples, epochs[1].samples)


def test_seeds_share_no_random_stream(
    make_settings: Callable[..., Settings],
) -> None:
    """Streams must not be derived from ``seed + 1`` or ``seed + 2``, which are seeds of others."""
    states = []
    for seed in (1, 2, 3):
        trainer = Trainer(make_settings(train={**SMALL, "seed": seed}).train, pixels(), CPU)
        for rollbacks in (0, 1):
            if rollbacks:
                trainer.reseed(rollbacks)
            streams = {k: v for k, v in trainer.state().items() if k.startswith("stream.")}
            if rollbacks:  # the dropout stream is not reseeded
                del streams["stream.dropout"]
            states += [state.numpy().tobytes() for state in streams.values()]
        # The fixed latents must differ from latents of raw seeds.
        for other in range(12):
            raw = generate(trainer.gan.eval_generator, draw_latents(5, trainer.arch, other))
            assert not np.array_equal(raw, trainer.samples())
    assert len(states) == len(set(states)) == 3 * (4 + 3)


def test_training_does_not_depend_on_global_seed(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(train=SMALL).train
    results = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        *_, last = Trainer(settings, pixels(), CPU).run()
        results.append(last)
    assert np.array_equal(results[0].statistics, results[1].statistics)
    assert np.array_equal(results[0].samples, results[1].samples)
    *_, other = Trainer(make_settings(train={**SMALL, "seed": 9}).train, pixels(), CPU).run()
    assert not np.array_equal(results[0].samples, other.samples)


def test_gan_learns_a_plain_color(make_settings: Callable[..., Settings]) -> None:
    orange = np.tile(np.array([230, 120, 30], np.uint8), (64, 16, 16, 1))
    changes = {
        **SMALL,
        "epochs": 40,
        "generator_channels": 8,
        "discriminator_channels": 8,
        "lr": 0.002,
    }
    *_, last = Trainer(make_settings(train=changes).train, orange, CPU).run()
    means = last.samples.mean(axis=(0, 1, 2))
    assert means[0] > means[1] > means[2]
    assert np.abs(means - [230, 120, 30]).max() < 50


@pytest.mark.parametrize("count", [1, 5, 7])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"size": 16, "discriminator_norm": True}, id="batch normalization"),
        pytest.param({"size": 28, "discriminator_norm": True}, id="28 pixels"),
        pytest.param(
            {"size": 32, "discriminator_norm": True, "discriminator_padding": 0}, id="no padding"
        ),
        pytest.param({"size": 16, "network": "mlp"}, id="mlp"),
        pytest.param(
            {
                "size": 16,
                "loss": "hinge",
                "spectral_norm": True,
                "ema_decay": 0.9,
                "horizontal_flip": True,
            },
            id="as the sample",
        ),
        pytest.param(
            {"size": 16, "generator_blocks": "residual", "discriminator_blocks": "residual"},
            id="residual blocks",
        ),
        pytest.param({"size": 16, "loss": "relativistic", "r1": 0.1}, id="penalty"),
    ],
)
def test_fewer_images_than_batch_size_form_one_batch(
    make_settings: Callable[..., Settings], count: int, changes: dict[str, Any]
) -> None:
    values = {**SMALL, "discriminator_norm": False, **changes}
    images = pixels(count, size=values.pop("size"))
    trainer = Trainer(make_settings(train=values).train, images, CPU)
    assert trainer.steps_per_epoch == 1
    epochs = list(trainer.run())
    assert [epoch.images.tolist() for epoch in epochs] == [[count], [2 * count]]
    assert all(np.isfinite(epoch.statistics).all() for epoch in epochs)
    assert not np.array_equal(epochs[0].samples, epochs[1].samples)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (pixels(20, size=20), r"the images are 20 pixels wide, but the networks need one of"),
        (pixels(20)[:, :8], "the images are 16x8, but"),
    ],
)
def test_images_of_wrong_size_are_rejected(
    make_settings: Callable[..., Settings], images: np.ndarray, sentence: str
) -> None:
    with pytest.raises(AtelierError, match=sentence):
        Trainer(make_settings(train=SMALL).train, images, CPU)


def test_divergence_error_names_learning_rate(
    make_settings: Callable[..., Settings],
) -> None:
    trainer = Trainer(make_settings(train={**SMALL, "lr": 1e20}).train, pixels(20), CPU)
    with pytest.raises(
        AtelierError, match=r"diverged in epoch 1: .* not finite; set train\.lr below 1e\+20"
    ):
        list(trainer.run())


def test_generator_is_rebuilt_from_its_file(tmp_path: Path) -> None:
    arch = with_changes(SMALL_ARCH, image_size=32, channels=1)
    generator, discriminator = build_networks(arch, seed=1)
    save_network(generator, arch, tmp_path / "g.safetensors")
    save_network(generator, arch, tmp_path / "again.safetensors")
    assert (tmp_path / "g.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()
    loaded = load_generator(tmp_path / "g.safetensors")
    loaded, loaded_arch = loaded.network, loaded.arch
    assert loaded_arch == arch
    latents = draw_latents(3, arch, seed=0)
    assert np.array_equal(generate(generator, latents), generate(loaded, latents))

    save_network(discriminator, arch, tmp_path / "d.safetensors")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "g.safetensors").read_bytes()[:500])
    for name in ("d", "half", "none"):
        with pytest.raises(AtelierError, match="holds no generator that can be rebuilt"):
            load_generator(tmp_path / f"{name}.safetensors")


def test_image_does_not_depend_on_its_batch() -> None:
    generator, _ = build_networks(SMALL_ARCH, seed=1)
    latents = draw_latents(10, SMALL_ARCH, seed=0)
    single = np.concatenate([generate(generator, latents[i : i + 1]) for i in range(10)])
    batch = generate(generator, latents)
    assert np.abs(single.astype(int) - batch).max() <= 1
    assert generator.training


def test_history_has_one_row_per_step(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    history = History()
    for epoch in Trainer(make_settings(train=SMALL).train, pixels(20), CPU).run():
        history.add(epoch)
        save_samples(epoch.number, epoch.samples, epoch.step_samples, tmp_path)
    history.write(tmp_path / "losses.csv", tmp_path / "quality.csv")
    header, *rows = (tmp_path / "losses.csv").read_text().splitlines()
    assert header == "step,epoch,images,loss_d,loss_g,d_x,d_g_z1,d_g_z2"
    assert [row.split(",")[:3] for row in rows] == [
        ["1", "1", "8"], ["2", "1", "16"], ["3", "1", "20"],
        ["4", "2", "28"], ["5", "2", "36"], ["6", "2", "40"],
    ]  # fmt: skip
    assert history.details()["steps"] == 6
    assert history.details()["epochs"] == 2
    samples = load_epochs(tmp_path)
    assert list(samples) == [1, 2]
    assert np.array_equal(samples[2], epoch.samples)
