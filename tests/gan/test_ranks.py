"""Two processes train as one does; one that dies ends the training, which can go on."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atelier.gan.ranks import JoinedBatchNorm, Ranks
from atelier.gan.training import Training
from atelier.settings import Settings

from ..project import Project

CHANGES = {
    "epochs": 2,
    "batch_size": 8,
    "generator_width": 4,
    "discriminator_width": 4,
    "latent_size": 8,
    "samples": 4,
    "precision": "fp32",
}
# Trains in each process of torchrun, and saves all that came out in the first one.
PROGRAM = """
import json, sys
import numpy as np, torch
from safetensors.torch import save_file
from atelier.gan.ranks import joined
from atelier.gan.training import Training
from atelier.settings import TrainSettings

torch.set_num_threads(1)
pixels = torch.load(sys.argv[2], weights_only=True).numpy()
with joined("cpu") as (ranks, device):
    settings = TrainSettings(**json.loads(sys.argv[1]))
    training = Training(settings, pixels, device, ranks, np.arange(len(pixels)) % 2)
    training.agree()
    rows = [torch.tensor(epoch.statistics) for epoch in training.run()]
    if ranks.number == 0:
        gradients = {
            f"gradient.{name}": p.grad.contiguous()
            for name, p in training.gan.generator.named_parameters()
        }
        save_file(
            {name: t.contiguous() for name, t in training.state().items()}
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
    "penalty_every": 2,
    "augment": ["color", "translation", "cutout"],
    "flip": True,
    "clip": 1.0,
    "ema": 0.9,
    "spectral_norm": True,
    "generator_blocks": "residual",
    "discriminator_blocks": "residual",
    "schedule": "linear",
    "conditional": True,
}


@pytest.mark.parametrize(
    ("count", "changes"),
    [
        (16, {}),
        (17, {"discriminator_norm": False}),
        (17, {"discriminator_norm": False, **MODERN}),
    ],
    ids=["even", "odd", "modern"],
)
def test_two_processes_give_what_one_gives(
    make_settings: Callable[..., Settings], tmp_path: Path, count: int, changes: dict[str, Any]
) -> None:
    """17 pictures in batches of 8: of the last one, a single picture, one process gets nothing."""
    from safetensors.torch import load_file

    settings = make_settings(train=CHANGES | changes)
    pixels = torch.randint(
        0, 256, (count, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    torch.save(pixels, tmp_path / "pixels.pt")
    (tmp_path / "program.py").write_text(PROGRAM)
    told = json.dumps(settings.train.model_dump())
    files = [str(tmp_path / name) for name in ("program.py", "pixels.pt", "state.safetensors")]
    torchrun(files[0], told, *files[1:])
    joint = load_file(files[2])

    labels = np.arange(count) % 2
    alone = Training(settings.train, pixels.numpy(), torch.device("cpu"), labels=labels)
    rows = [torch.tensor(epoch.statistics) for epoch in alone.run()]
    torch.testing.assert_close(joint["statistics"], torch.cat(rows), rtol=1e-4, atol=1e-5)
    for name, parameter in alone.gan.generator.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(
            joint[f"gradient.{name}"], parameter.grad, rtol=1e-3, atol=1e-5, msg=name
        )
    for name in ("epochs_done", "stream.order", "stream.latents", "stream.chances"):
        torch.testing.assert_close(joint[name], alone.state()[name])
    for name, tensor in alone.state().items():
        if name.startswith("average."):
            torch.testing.assert_close(joint[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_parts_are_even_and_complete() -> None:
    batch = torch.arange(11)
    parts = [Ranks(number, 4).part(batch) for number in range(4)]
    assert torch.equal(torch.cat(parts), batch)
    assert [len(part) for part in parts] == [3, 3, 3, 2]


def test_joined_normalisation_of_one_process_is_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values, gradients and running statistics; alone, the sum over all processes is its own."""
    monkeypatch.setattr("atelier.gan.ranks._all_reduce", lambda _tensor: None)
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1
    weights = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    outcomes = []
    for norm in (torch.nn.BatchNorm2d(3), JoinedBatchNorm(3)):
        given = x.clone().requires_grad_()
        (norm(given) * weights).sum().backward()
        assert given.grad is not None
        outcomes.append([given.grad, norm.weight.grad, norm.running_mean, norm.running_var])
        assert int(norm.get_buffer("num_batches_tracked")) == 1
    for plain, joint in zip(*outcomes, strict=True):
        torch.testing.assert_close(joint, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_stage_and_the_next_run_goes_on(ready: Project) -> None:
    """By the real dvc; the training that was cut short and one that was not end the same."""
    ready.set(
        **{"runtime.launcher": "torchrun --nproc-per-node=2", "train.epochs": 15},
        **{"runtime.checkpoint_seconds": 0.0, "tracking.enabled": False},
    )
    whole = ready.copy(ready.folder.parent / "whole")
    whole.run("dvc", "repro", "train")
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
        kill_the_second(dvc, ready.folder)
        told = dvc.communicate()[0]
    assert dvc.returncode != 0
    assert "Traceback" not in told, told
    assert "ERROR: another process of this training ended" in told or "interrupted" in told, told
    assert "ERROR: process 1 of the training was ended by signal 9." in told, told
    assert list((ready.folder / ".atelier" / "unfinished").glob("train-*/state-*"))
    ready.run("dvc", "repro", "train")
    assert ready.bytes("models", "samples") == whole.bytes("models", "samples")


def kill_the_second(dvc: "subprocess.Popen[str]", folder: Path) -> None:
    """Kill the process of rank 1 once there is a checkpoint."""
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
