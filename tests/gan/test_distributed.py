"""Training in two processes: equal results, errors, and resuming after a kill."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.core.errors import AtelierError, PeerLostError
from atelier.core.settings import Settings
from atelier.gan.distributed import (
    Ranks,
    Runtime,
    SyncBatchNorm,
    _all_reduce,
    convert_sync_batchnorm,
    init_distributed,
)
from atelier.gan.model import build_gan
from atelier.gan.networks import build_networks
from atelier.gan.trainer import Trainer

from ..support.architectures import SMALL, train_settings
from ..support.project import Project

CHANGES = {
    "epochs": 2,
    "batch_size": 8,
    "generator_channels": 4,
    "discriminator_channels": 4,
    "latent_size": 8,
    "fixed_samples": 4,
    "precision": "fp32",
}
# Trains in each process of torchrun; rank 0 saves the result.
PROGRAM = """
import json, sys
import numpy as np, torch
from safetensors.torch import save_file
from atelier.gan.distributed import init_distributed
from atelier.gan.trainer import Trainer
from atelier.core.settings import TrainSettings

torch.set_num_threads(1)
pixels = torch.load(sys.argv[2], weights_only=True).numpy()
with init_distributed("cpu") as runtime:
    ranks, device = runtime.ranks, runtime.device
    settings = TrainSettings(**json.loads(sys.argv[1]))
    trainer = Trainer(settings, pixels, device, ranks, np.arange(len(pixels)) % 2)
    trainer.broadcast_state()
    rows = [torch.tensor(epoch.statistics) for epoch in trainer.run()]
    if ranks.number == 0:
        gradients = {
            f"gradient.{name}": p.grad.contiguous()
            for name, p in trainer.gan.generator.named_parameters()
        }
        save_file(
            {name: t.contiguous() for name, t in trainer.state().items()}
            | gradients | {"statistics": torch.cat(rows)}, sys.argv[3],
        )
"""


def torchrun(*arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, *arguments], env=environment, check=True, capture_output=True)


MODERN = {
    "loss": "relativistic",
    "r1": 1.0,
    "r2": 1.0,
    "gradient_penalty": 1.0,
    "penalty_interval": 2,
    "augment": ["color", "translation", "cutout"],
    "horizontal_flip": True,
    "grad_clip": 1.0,
    "ema_decay": 0.9,
    "spectral_norm": True,
    "generator_blocks": "residual",
    "discriminator_blocks": "residual",
    "schedule": "linear",
    "conditional": True,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (16, {}),
        (17, {"discriminator_norm": False}),
        (16, {"fused": "auto"}),
        (16, {"freeze_discriminator": 1, "start_from": {"first": "networks"}}),
        (17, {"discriminator_norm": False, **MODERN}),
    ],
    ids=["even", "odd", "fused", "frozen", "modern"],
)
def test_two_processes_match_one(
    make_settings: Callable[..., Settings], tmp_path: Path, count: int, changes: dict[str, Any]
) -> None:
    """17 images in batches of 8: the last batch has one image, so one process gets none."""
    from safetensors.torch import load_file

    settings = make_settings(train=CHANGES | changes)
    pixels = torch.randint(
        0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    torch.save(pixels, tmp_path / "pixels.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    settings_json = json.dumps(settings.train.model_dump())
    files = [str(tmp_path / name) for name in ("program.py", "pixels.pt", "state.safetensors")]
    torchrun(files[0], settings_json, *files[1:])
    distributed = load_file(files[2])

    labels = np.arange(count) % 2
    single = Trainer(settings.train, pixels.numpy(), torch.device("cpu"), labels=labels)
    rows = [torch.tensor(epoch.statistics) for epoch in single.run()]
    torch.testing.assert_close(distributed["statistics"], torch.cat(rows), rtol=1e-4, atol=1e-5)
    for name, parameter in single.gan.generator.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            distributed[f"gradient.{name}"], parameter.grad, rtol=1e-3, atol=1e-5, msg=name
        )
    for name in ("epochs_done", "stream.order", "stream.latents", "stream.chances"):
        torch.testing.assert_close(distributed[name], single.state()[name])
    for name, tensor in single.state().items():
        if name.startswith("average."):
            torch.testing.assert_close(distributed[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_shards_are_even_and_complete() -> None:
    batch = torch.arange(11)
    parts = [Ranks(number, 4).shard(batch) for number in range(4)]
    assert torch.equal(torch.cat(parts), batch)
    assert [len(part) for part in parts] == [3, 3, 3, 2]


def test_sync_batchnorm_of_one_process_matches_batchnorm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values, gradients and running statistics are equal if all_reduce does nothing."""
    monkeypatch.setattr("atelier.gan.distributed._all_reduce", lambda _tensor: None)
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1
    weights = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    results = []
    for norm in (torch.nn.BatchNorm2d(3), SyncBatchNorm(3)):
        inputs = x.clone().requires_grad_()
        (norm(inputs) * weights).sum().backward()
        assert inputs.grad is not None
        results.append([inputs.grad, norm.weight.grad, norm.running_mean, norm.running_var])
        assert int(norm.get_buffer("num_batches_tracked")) == 1
    for plain, joint in zip(*results, strict=True):
        torch.testing.assert_close(joint, plain, rtol=1e-5, atol=1e-6)


def all_reduce_equal_peer(tensor: torch.Tensor) -> None:
    """Sum over two processes with equal tensors."""
    tensor.mul_(2)


def test_sync_batchnorm_of_two_processes_matches_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("atelier.gan.distributed._all_reduce", all_reduce_equal_peer)
    stream = torch.Generator().manual_seed(1)
    half, gradients = (torch.randn(3, 2, 4, 4, generator=stream) * 3 + 1 for _ in range(2))
    whole = torch.cat([half, half]).requires_grad_()
    plain, joint = torch.nn.BatchNorm2d(2), SyncBatchNorm(2)
    for norm in (plain, joint):
        torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(2))
        torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(3))
    part = half.clone().requires_grad_()
    for _ in range(2):
        expected, found = plain(whole), joint(part)
    (expected * torch.cat([gradients, gradients])).sum().backward()
    (found * gradients).sum().backward()
    torch.testing.assert_close(found, expected[:3])
    assert whole.grad is not None
    assert part.grad is not None
    torch.testing.assert_close(part.grad, whole.grad[:3], rtol=1e-4, atol=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(joint.state_dict()[name], tensor, msg=name)
    torch.testing.assert_close(joint.eval()(half), plain.eval()(half))
    assert joint(half.bfloat16()).dtype == torch.bfloat16
    assert joint.train()(half.bfloat16()).dtype == torch.bfloat16


def test_convert_sync_batchnorm_preserves_state() -> None:
    network = build_networks(SMALL, seed=1)[0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    convert_sync_batchnorm(network)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, SyncBatchNorm) for norm in norms)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    gan = build_gan(SMALL, train_settings("celeba64"), torch.device("cpu"), Ranks(0, 2))
    kinds = {type(m) for n in (gan.generator, gan.discriminator) for m in n.modules()}
    assert SyncBatchNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds


def test_all_reduce_sum_uses_one_collective(monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges: list[int] = []

    def add(tensor: torch.Tensor) -> None:
        exchanges.append(tensor.numel())
        tensor += torch.arange(tensor.numel())

    monkeypatch.setattr("atelier.gan.distributed._all_reduce", add)
    tensors = [torch.ones(2, 2), torch.zeros(()), torch.full((3,), 5.0)]
    Ranks(0, 2).all_reduce_sum(tensor for tensor in tensors)
    assert [t.tolist() for t in tensors] == [[[1, 2], [3, 4]], 4, [10, 11, 12]]
    Ranks().all_reduce_sum(tensors)
    assert exchanges == [8]


@pytest.fixture
def torchrun_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the environment of torchrun's only process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("torchrun_environment")
def test_torchrun_process_joins_group_and_rank0_broadcasts_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = {"weights": torch.randn(3, 4).T, "count": torch.tensor(3)}
    sent: list[torch.Tensor] = []
    with init_distributed("cpu") as runtime:
        assert runtime == Runtime(Ranks(0, 1), torch.device("cpu"))
        reduced = torch.ones(3)
        _all_reduce(reduced)
        assert reduced.tolist() == [1, 1, 1]
        broadcast = torch.distributed.broadcast
        monkeypatch.setattr(
            torch.distributed,
            "broadcast",
            lambda tensor, source: (broadcast(tensor, source), sent.append(tensor.clone())),
        )
        from_rank0 = Ranks(0, 2).broadcast_state(state)
        received = list(sent)
        monkeypatch.setattr(
            torch.distributed, "broadcast", lambda tensor, _source: tensor.copy_(received.pop(0))
        )
        from_rank1 = Ranks(1, 2).broadcast_state({})
        assert Ranks().broadcast_state(state) == state
    assert not torch.distributed.is_initialized()
    for found in (from_rank0, from_rank1):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


def test_single_process_needs_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with init_distributed("cpu") as runtime:
        assert runtime == Runtime(Ranks(), torch.device("cpu"))
    monkeypatch.setattr("atelier.gan.distributed.choose_device", torch.device)
    with init_distributed("cuda:1") as runtime:
        assert runtime == Runtime(Ranks(), torch.device("cuda", 1))
    assert chosen == [torch.device("cuda", 1)]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("enabled", [False, True])
def test_cudnn_benchmark_is_a_setting(monkeypatch: pytest.MonkeyPatch, enabled: bool) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", not enabled)
    with init_distributed("cpu", cudnn_benchmark=enabled):
        assert torch.backends.cudnn.benchmark == enabled


@pytest.mark.usefixtures("torchrun_environment")
@pytest.mark.parametrize(("gpus", "number", "fits"), [(2, 1, True), (2, 2, False), (1, 0, True)])
def test_each_process_uses_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, gpus: int, number: int, fits: bool
) -> None:
    chosen: list[torch.device] = []
    backends: list[str] = []
    monkeypatch.setenv("LOCAL_RANK", str(number))
    monkeypatch.setattr("atelier.gan.distributed.choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    start = torch.distributed.init_process_group

    def record(backend: str) -> None:
        backends.append(backend)
        start("gloo")

    monkeypatch.setattr(torch.distributed, "init_process_group", record)
    if not fits:
        with pytest.raises(AtelierError, match="than there are GPUs"), init_distributed("cuda"):
            pass
        assert backends == chosen == []
        return
    with init_distributed("cuda") as runtime:
        assert runtime.device == torch.device("cuda", number)
    assert (backends, chosen) == (["nccl"], [torch.device("cuda", number)])


@pytest.mark.usefixtures("torchrun_environment")
def test_connection_errors_are_one_error_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError("connection " + 200 * "x" + "\nand a trace")

    monkeypatch.setattr(torch.distributed, "all_reduce", fail)
    with pytest.raises(
        PeerLostError, match=r"exited, so this one cannot continue \(connection x+\)"
    ):
        _all_reduce(torch.ones(1))
    monkeypatch.setattr(torch.distributed, "init_process_group", fail)
    sentence = r"could not connect \(connection x{109}\)"
    with pytest.raises(AtelierError, match=sentence), init_distributed("cpu"):
        pass


@pytest.mark.slow
def test_stage_resumes_after_a_process_is_killed(ready: Project) -> None:
    """With DVC, an interrupted and an uninterrupted training end with the same files."""
    ready.set(
        **{"runtime.launcher": "torchrun --nproc-per-node=2", "train.epochs": 15},
        **{"runtime.checkpoint_seconds": 0.0, "tracking.enabled": False},
    )
    shutil.rmtree(ready.folder / ".atelier" / "finished")  # it would be extended
    uninterrupted = ready.copy(ready.folder.parent / "whole")
    output = uninterrupted.run("dvc", "repro", "train")
    assert output.count(", 2 processes, ") == 1, "only rank 0 prints the size of the training"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=ready.folder,
        env={**environment, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as dvc:
        kill_rank1(dvc, ready.folder)
        output = dvc.communicate()[0]
    assert dvc.returncode != 0
    assert "Traceback" not in output, output
    assert "ERROR: another process of this training exited" in output or "interrupted" in output, (
        output
    )
    assert "ERROR: process 1 of the training was ended by signal 9." in output, output
    assert list((ready.folder / ".atelier" / "unfinished").glob("train-*/state-*"))
    output = ready.run("dvc", "repro", "train")
    assert re.search(r" steps are 15 epochs, of which \d+ steps? remains?; ", output)
    assert ready.bytes("models", "samples") == uninterrupted.bytes("models", "samples")


def kill_rank1(dvc: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait for a checkpoint and kill the process of rank 1."""
    import time

    import psutil

    end = time.monotonic() + 120
    while time.monotonic() < end and dvc.poll() is None:
        if list((folder / ".atelier" / "unfinished").glob("train-*/state-*")):
            for process in psutil.Process(dvc.pid).children(recursive=True):
                try:
                    if process.environ().get("RANK") == "1":
                        process.kill()
                        return
                except psutil.Error:
                    continue
        time.sleep(0.05)
    raise AssertionError("there was no second process to kill")
