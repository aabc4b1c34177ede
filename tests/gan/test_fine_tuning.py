"""Fine-tuning: first weights, moving average, frozen layers, and architectures that differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from atelier.core.errors import AtelierError
from atelier.core.settings import Settings, TrainSettings
from atelier.core.state import section
from atelier.gan.distributed import SINGLE_PROCESS, Ranks, Runtime
from atelier.gan.fine_tuning import (
    freeze_layers,
    load_pretrained,
    require_same_architecture,
    require_same_settings,
)
from atelier.gan.fit import build_trainer, run_training, save_models, train
from atelier.gan.generation import generate
from atelier.gan.model import build_gan
from atelier.gan.networks import Discriminator, build_networks
from atelier.gan.resume_rollback import Resumption
from atelier.gan.serialization import load_generator, save_network
from atelier.gan.trainer import Trainer

from ..support.architectures import CELEBA64, FASHION_MLP, SMALL, with_changes
from ..support.divergence import NanWeights
from ..support.events import RecordedEvents

CPU = Runtime(SINGLE_PROCESS, torch.device("cpu"))
TINY = {
    "epochs": 1,
    "batch_size": 8,
    "generator_channels": 2,
    "discriminator_channels": 2,
    "latent_size": 4,
    "fixed_samples": 3,
    "precision": "fp32",
    "kid_every_epochs": 0,
    "ema_decay": 0.9,
    "discriminator_norm": False,
    "spectral_norm": True,
}
START = {"start_from": {"first": "networks"}}
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
MakeTrain = Callable[..., TrainSettings]


@pytest.fixture
def make_train(make_settings: Callable[..., Settings]) -> MakeTrain:
    return lambda **changes: make_settings(train={**TINY, **changes}).train


@pytest.fixture
def start(make_train: MakeTrain, tmp_path: Path) -> Path:
    """Networks of a training of two steps."""
    save_models(train(make_train(lr=0.01), IMAGES, runtime=CPU).trainer, tmp_path)
    return tmp_path


def fine_tune(settings: TrainSettings, folder: Path, events: Any = None) -> Trainer:
    return build_trainer(
        settings,
        IMAGES,
        runtime=CPU,
        events=events or RecordedEvents(),
        pretrained=load_pretrained(folder),
    )


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_first_samples_and_all_tensors_are_those_of_the_start(
    make_train: MakeTrain, start: Path
) -> None:
    """The file has the moving average, from which the raw generator starts too."""
    sheets = []

    class Started(RecordedEvents):
        def on_start(self, samples: Any, columns: int, augmented: Any) -> None:
            sheets.append(samples)

    trainer = fine_tune(make_train(**START, seed=5), start, Started())
    generator = load_generator(start / "generator.safetensors").network
    assert np.array_equal(sheets[0], generate(generator, trainer._fixed_latents))
    assert not np.array_equal(sheets[0], Trainer(make_train(seed=5), IMAGES, CPU.device).samples())
    expected = {
        name: load_file(start / f"{name}.safetensors") for name in ("generator", "discriminator")
    }
    assert any(name.endswith("running_var") for name in expected["generator"])
    assert any(name.endswith("._u") for name in expected["discriminator"])
    gan = trainer.gan
    assert gan.ema
    for network in (gan.generator, gan.ema.generator):
        assert_equal(network.state_dict(), expected["generator"])
    assert_equal(gan.discriminator.state_dict(), expected["discriminator"])
    assert not gan.generator_optimizer.state_dict()["state"], "Adam has no moments yet"


def test_average_of_a_start_has_its_full_decay_from_the_first_step(
    make_train: MakeTrain, start: Path
) -> None:
    trainer = fine_tune(make_train(**START, ema_decay=0.75, steps=1), start)
    before = {k: v.clone() for k, v in trainer.gan.generator.named_parameters()}
    assert len(list(trainer.run())) == 1
    assert trainer.gan.ema
    after = dict(trainer.gan.generator.named_parameters())
    for name, average in trainer.gan.ema.generator.named_parameters():
        torch.testing.assert_close(average, 0.75 * before[name] + 0.25 * after[name])


@pytest.mark.parametrize(
    "changes",
    [
        {"r1": 1.0, "grad_clip": 0.1, "weight_decay": 0.1},
        {"spectral_norm": False, "discriminator_norm": True, "loss": "relativistic"},
        {"spectral_norm": False, "fused": "auto"},
        {"discriminator_blocks": "residual"},
        {"network": "mlp"},
    ],
    ids=["spectral_norm", "batch_norm", "fused", "residual", "mlp"],
)  # fmt: skip
def test_frozen_layers_do_not_move_and_all_others_do(
    make_train: MakeTrain, changes: dict[str, Any]
) -> None:
    settings = make_train(**START, freeze_discriminator=1, lr=0.01, **changes)
    trainer = Trainer(settings, IMAGES, CPU.device)
    before = {k: v.clone() for k, v in trainer.gan.discriminator.state_dict().items()}
    statistics = [epoch.statistics for epoch in trainer.run()]
    assert np.isfinite(statistics).all()
    after = trainer.gan.discriminator.state_dict()
    prefix = "layers.1." if settings.network == "mlp" else "layers.0."
    first = {name for name in before if name.startswith(prefix)}
    equal = {name for name in before if torch.equal(before[name], after[name])}
    assert first
    assert first <= equal, "weights, and vectors of spectral normalization"
    weights = {name for name, _ in trainer.gan.discriminator.named_parameters()}
    assert equal & weights == first & weights
    moments = section(trainer.gan.state(), "discriminator.adam")
    frozen = [
        n for n, w in enumerate(trainer.gan.discriminator.parameters()) if not w.requires_grad
    ]
    assert frozen
    assert not {name.split(".")[0] for name in moments} & {str(number) for number in frozen}


def frozen_layers(discriminator: Discriminator, count: int) -> set[str]:
    freeze_layers(discriminator, count)
    frozen = (n for n, w in discriminator.named_parameters() if not w.requires_grad)
    return {name.split(".")[1] for name in frozen}


def test_a_layer_has_the_normalization_after_it() -> None:
    """celeba64: convolutions 0, 2, 5, 8 and 11, normalizations 3, 6 and 9."""
    celeba64 = with_changes(CELEBA64, generator_channels=2, discriminator_channels=2)
    expected = [set(), {"0"}, {"0", "2", "3"}, {"0", "2", "3", "5", "6"}]
    for count, layers in enumerate(expected):
        assert frozen_layers(build_networks(celeba64, seed=1)[1], count) == layers
    assert frozen_layers(build_networks(FASHION_MLP, seed=1)[1], 2) == {"1", "4"}
    with pytest.raises(AtelierError, match=r"has 5 layers, and one of them .* set it to 4 or less"):
        freeze_layers(build_networks(celeba64, seed=1)[1], 5)


@pytest.mark.slow
def test_frozen_training_resumes_bit_exactly_and_rolls_back_to_its_start(
    make_train: MakeTrain, start: Path
) -> None:
    settings = make_train(**START, epochs=2, freeze_discriminator=2)
    whole = fine_tune(settings, start)
    list(whole.run())
    first = fine_tune(settings, start)
    next(first.run())
    second = fine_tune(settings, start)
    second.restore({name: tensor.clone() for name, tensor in first.state().items()})
    list(second.run())
    assert_equal(second.gan.state(), whole.gan.state())
    # Weights that are not finite within the first epoch: the start is loaded again.
    events = RecordedEvents()
    diverged = fine_tune(settings, start, events)
    resumption = Resumption(stop_requested=NanWeights(diverged, steps=1, times=1))
    run_training(diverged, events, resumption)
    assert "Rolled back to step 0" in " ".join(events.warnings)
    diverged.reset()
    assert_equal(diverged.gan.generator.state_dict(), load_file(start / "generator.safetensors"))


def test_short_fine_tuning_causes_no_warning(make_train: MakeTrain, start: Path) -> None:
    """The number of steps in the warning is that of a training from random weights."""
    events = RecordedEvents()
    run_training(fine_tune(make_train(**START), start, events), events)
    assert not [warning for warning in events.warnings if "steps" in warning]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator_channels": 48}, "generator_channels: 4, but this training has 48; set"
         " train.generator_channels to 4"),
        ({"relu_before_norm": True}, "relu_before_norm: False, .* True; set"
         " train.relu_before_norm to false"),
        ({"image_size": 32}, "image_size: 16, .* 32; set convert.image_size to 16"),
        ({"channels": 1}, "channels: 3, .* 1; set convert.color to rgb"),
        ({"classes": 3}, "classes: 0, .* 3; set train.conditional to false"),
    ],
)  # fmt: skip
def test_first_difference_of_the_architectures_is_named(
    changes: dict[str, Any], message: str
) -> None:
    require_same_architecture(SMALL, SMALL)
    with pytest.raises(AtelierError, match=message):
        require_same_architecture(SMALL, with_changes(SMALL, **changes))


def test_classes_must_be_those_of_the_images() -> None:
    ten = with_changes(SMALL, classes=10)
    with pytest.raises(AtelierError, match=r"classes: 10, .* 3; use images of 10 classes"):
        require_same_architecture(ten, with_changes(SMALL, classes=3))
    with pytest.raises(AtelierError, match=r"classes: 10, .* 0; set train.conditional to true"):
        require_same_architecture(ten, SMALL)


def test_settings_are_compared_before_the_images_exist(
    make_settings: Callable[..., Settings],
) -> None:
    fields = {
        name: getattr(SMALL, name) for name in TrainSettings.model_fields if hasattr(SMALL, name)
    }
    settings = make_settings(train=fields, convert={"image_size": 16})
    require_same_settings(SMALL, settings)
    with pytest.raises(AtelierError, match=r"set convert\.image_size to 16"):
        require_same_settings(SMALL, make_settings(train=fields, convert={"image_size": 64}))
    frozen = fields | {"freeze_discriminator": 3, **START}
    with pytest.raises(AtelierError, match=r"has 3 layers, .* set it to 2 or less"):
        require_same_settings(SMALL, make_settings(train=frozen, convert={"image_size": 16}))
    conditional = make_settings(train=fields | {"conditional": True}, convert={"image_size": 16})
    require_same_settings(with_changes(SMALL, classes=7), conditional)
    with pytest.raises(AtelierError, match=r"set train\.conditional to true"):
        require_same_settings(with_changes(SMALL, classes=7), settings)


def test_trainer_rejects_networks_of_another_architecture(
    make_train: MakeTrain, start: Path
) -> None:
    with pytest.raises(AtelierError, match="discriminator_channels: 2, but this training has 4"):
        fine_tune(make_train(**START, discriminator_channels=4), start)


def test_damaged_or_mixed_networks_are_rejected(start: Path) -> None:
    generator, discriminator = start / "generator.safetensors", start / "discriminator.safetensors"
    content = discriminator.read_bytes()
    discriminator.write_bytes(content[:-40])
    with pytest.raises(AtelierError, match="holds no discriminator that can be used"):
        load_pretrained(start)
    other = with_changes(SMALL, latent_size=9)
    save_network(build_networks(other, seed=1)[1], other, discriminator)
    with pytest.raises(AtelierError, match="of different trainings: latent_size is 4 in the gen"):
        load_pretrained(start)
    discriminator.write_bytes(generator.read_bytes())
    with pytest.raises(AtelierError, match="holds no discriminator that can be used"):
        load_pretrained(start)
    torch.save(load_file(generator), discriminator)  # a pickle is not read
    with pytest.raises(AtelierError, match="holds no discriminator that can be used"):
        load_pretrained(start)
    discriminator.unlink()
    with pytest.raises(AtelierError, match="No such file"):
        load_pretrained(start)


def test_ranks_above_0_freeze_the_same_layers(make_train: MakeTrain) -> None:
    """They receive the weights from rank 0, so that only the settings decide on frozen layers."""
    settings = make_train(**START, freeze_discriminator=2)
    one, two = (
        build_gan(SMALL, settings, torch.device("cpu"), ranks)
        for ranks in (SINGLE_PROCESS, Ranks(1, 2))
    )
    assert [w.requires_grad for w in two.discriminator.parameters()] == [
        w.requires_grad for w in one.discriminator.parameters()
    ]
