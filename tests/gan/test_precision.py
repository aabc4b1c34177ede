"""Training in bfloat16 and TF32, and steps as CUDA graphs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.device import autocast, choose_precision, float32_matmul_precision, native_bf16
from atelier.core.errors import AtelierError
from atelier.core.settings import Settings
from atelier.gan.step import Batch, train_step
from atelier.gan.step_runner import StepRunner
from atelier.gan.trainer import Trainer

from ..support.events import RecordedEvents

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def deterministic_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use deterministic algorithms: Adam amplifies differences of the last bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def faces(count: int) -> np.ndarray:
    """Return smooth blobs that a small network can learn in seconds."""
    stream = np.random.default_rng(3)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    width, shade = stream.uniform(0.3, 0.8, (2, count, 1, 1))
    blobs = np.exp(-(x**2 + y**2) / width**2) * shade
    colors = stream.uniform(0.5, 1.0, (count, 1, 1, 3))
    return (blobs[..., None] * colors * 255).astype(np.uint8)


def curve(
    make_settings: Callable[..., Settings], precision: str, seed: int, fused: str = "none"
) -> np.ndarray:
    """Return mean losses and scores of each of six epochs, [6, 5]."""
    changes = {"generator_channels": 8, "discriminator_channels": 8, "epochs": 6, "batch_size": 32}
    options = {"precision": precision, "seed": seed, "fused": fused}
    settings = make_settings(train=changes | options).train
    trainer = Trainer(settings, faces(256), CPU)
    return np.stack([epoch.statistics.mean(axis=0) for epoch in trainer.run()])


def test_bf16_curves_are_within_spread_of_seeds(
    make_settings: Callable[..., Settings],
) -> None:
    """For three seeds, bf16 differs from fp32 by no more than the seeds differ."""
    fp32 = np.stack([curve(make_settings, "fp32", seed) for seed in (1, 2, 3)])
    bf16 = np.stack([curve(make_settings, "bf16", seed) for seed in (1, 2, 3)])
    spread = fp32.max(axis=0) - fp32.min(axis=0)
    assert (np.abs(bf16.mean(axis=0) - fp32.mean(axis=0)) <= spread + 0.02).mean() > 0.9
    assert np.abs(bf16 - fp32).mean() <= spread.mean()
    assert not np.array_equal(bf16, fp32)


@pytest.mark.slow
def test_fused_bf16_curves_are_within_spread_of_seeds(
    make_settings: Callable[..., Settings],
) -> None:
    """For three seeds, fused bf16 steps differ from plain ones by less than the seeds differ."""
    plain = np.stack([curve(make_settings, "bf16", seed) for seed in (1, 2, 3)])
    fused = np.stack([curve(make_settings, "bf16", seed, "auto") for seed in (1, 2, 3)])
    spread = plain.max(axis=0) - plain.min(axis=0)
    assert (np.abs(fused.mean(axis=0) - plain.mean(axis=0)) <= spread + 0.02).mean() > 0.9
    assert np.abs(fused - plain).mean() <= spread.mean()
    assert not np.array_equal(fused, plain)


def test_weights_and_moments_stay_float32(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(train={"epochs": 1, "precision": "bf16", "batch_size": 32}).train
    trainer = Trainer(settings, faces(32), CPU)
    next(trainer.run())
    kinds = {tensor.dtype for tensor in trainer.gan.state().values()}
    assert kinds <= {torch.float32, torch.int64}
    with autocast("bf16", CPU):
        assert trainer.gan.generator(torch.zeros(2, 100)).dtype == torch.bfloat16


def test_auto_precision_requires_native_bf16() -> None:
    assert choose_precision("auto", CPU) == ("bf16" if native_bf16(CPU) else "fp32")
    assert choose_precision("fp32", CPU) == "fp32"
    with pytest.raises(AtelierError, match="GPUs since Ampere have, but the device is cpu"):
        choose_precision("tf32", CPU)


@pytest.mark.parametrize(
    ("setting", "device", "native", "expected"),
    [
        ("auto", CUDA, True, "bf16"),
        ("auto", CUDA, False, "fp32"),
        ("bf16", CPU, False, "bf16"),
        ("fp32", CUDA, True, "fp32"),
        ("tf32", CUDA, True, "tf32"),
        ("tf32", CUDA, False, None),
        ("tf32", CPU, True, None),
    ],
)
def test_precision_must_be_supported_by_device(
    monkeypatch: pytest.MonkeyPatch, setting: Any, device: torch.device, native: bool, expected: Any
) -> None:
    monkeypatch.setattr("atelier.core.device.native_bf16", lambda _device: native)
    if expected is None:
        with pytest.raises(AtelierError, match=f"the device is {device.type}; set it to auto"):
            choose_precision(setting, device)
    else:
        assert choose_precision(setting, device) == expected


@pytest.mark.parametrize(("precision", "flag"), [("tf32", "tf32"), ("fp32", "ieee")])
def test_matmul_precision_is_restored(precision: Any, flag: str) -> None:
    cudnn: Any = torch.backends.cudnn
    settings = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [setting.fp32_precision for setting in settings]
    with pytest.raises(KeyboardInterrupt), float32_matmul_precision(precision, CUDA):
        assert [setting.fp32_precision for setting in settings] == [flag] * 3
        raise KeyboardInterrupt
    assert [setting.fp32_precision for setting in settings] == before
    with float32_matmul_precision(precision, CPU):
        assert [setting.fp32_precision for setting in settings] == before


def test_failed_graph_capture_falls_back_to_eager_steps(
    make_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = make_settings(train={"epochs": 2, "batch_size": 32}).train
    plain = [epoch.statistics for epoch in Trainer(settings, faces(64), CPU).run()]

    def fail_capture(*_arguments: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr("atelier.gan.step_runner.GraphedStep", fail_capture)
    monkeypatch.setattr(StepRunner, "can_graph", lambda self, *_: self.use_cuda_graphs)
    events = RecordedEvents()
    trainer = Trainer(settings, faces(64), CPU, events=events)
    statistics = [epoch.statistics for epoch in trainer.run()]
    np.testing.assert_array_equal(statistics, plain)
    (sentence,) = events.warnings
    assert (
        "cannot be captured as a CUDA graph on this GPU (operation not permitted when" in sentence
    )


def test_step_can_be_repeated_after_an_error(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = Trainer(make_settings().train, faces(64), CPU).gan
    batch = Batch(torch.zeros(4, 3, 16, 16), torch.zeros(4, gan.arch.latent_size))

    def fail(*_arguments: object) -> None:
        raise RuntimeError("no memory in the generator's half")

    with monkeypatch.context() as patch:
        patch.setattr("atelier.gan.step.generator_loss", fail)
        with pytest.raises(RuntimeError, match="generator's half"):
            train_step(gan, batch)
    assert train_step(gan, batch).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.usefixtures("deterministic_cudnn")
@pytest.mark.filterwarnings("ignore:TensorFloat32")  # torch.compile suggests it
@pytest.mark.parametrize(
    ("precision", "fused"),
    [(precision, "none") for precision in ("fp32", "tf32", "bf16")]
    + [("fp32", "auto"), ("bf16", "auto")],
)
def test_graphed_steps_match_eager_steps(
    make_settings: Callable[..., Settings], precision: str, fused: str
) -> None:
    options = {"precision": precision, "fused": fused}
    settings = make_settings(train={"epochs": 2, "batch_size": 32} | options).train
    curves = []
    for use_graphs in (False, True):
        trainer = Trainer(settings, faces(32 * 5 + 7), torch.device("cuda"))
        trainer.runner.use_cuda_graphs = use_graphs
        curves.append(np.concatenate([epoch.statistics for epoch in trainer.run()]))
    np.testing.assert_allclose(*curves, rtol=1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.usefixtures("deterministic_cudnn")
def test_graphed_steps_with_penalties_match_eager_steps(
    make_settings: Callable[..., Settings],
) -> None:
    """Two graphs alternate while the learning rate decays."""
    changes = {
        "epochs": 2,
        "precision": "fp32",
        "batch_size": 32,
        "loss": "hinge",
        "ema_decay": 0.9,
        "r1": 1.0,
        "penalty_interval": 2,
        "discriminator_norm": False,
        "spectral_norm": True,
        "augment": ["color", "translation", "cutout"],
        "horizontal_flip": True,
        "grad_clip": 1.0,
        "schedule": "cosine",
    }
    results = []
    for use_graphs in (False, True):
        trainer = Trainer(make_settings(train=changes).train, faces(32 * 5 + 7), CUDA)
        trainer.runner.use_cuda_graphs = use_graphs
        epochs = list(trainer.run())
        results.append([e.statistics for e in epochs] + [epochs[-1].samples / 255])
    for plain, captured in zip(*results, strict=True):
        np.testing.assert_allclose(captured, plain, rtol=1e-3, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.usefixtures("deterministic_cudnn")
def test_training_with_images_in_host_memory_is_equal(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(train={"epochs": 2, "precision": "fp32", "batch_size": 32}).train
    on_gpu = [e.statistics for e in Trainer(settings, faces(99), torch.device("cuda")).run()]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (0, 0))
    from_host = [e.statistics for e in Trainer(settings, faces(99), torch.device("cuda")).run()]
    np.testing.assert_allclose(from_host, on_gpu, rtol=1e-5)
