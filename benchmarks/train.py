"""Training as the DCGAN tutorial writes it, and as Atelier does: pictures a second, side by side.

The reference is the tutorial's loop in our own words: float32, five waits for the device in a
step, binary cross entropy after a sigmoid, the discriminator's weight gradients computed in the
generator's step as well. Both train networks of the same layers on the same random pictures, in
batches of the same size; they take turns, each in a process of its own as it would be used, and
each turn is timed between its first and last step. The reference reads from memory, or with
--folder 1 JPEGs of a folder by two workers, as the tutorial does. The limit is the highest rate of
large products in the training's precision, measured in the same run; the counted work is that of
all convolutions, without products by the zeros of their padding.

Usage: python benchmarks/train.py [--side 64] [--batch 128] [--steps 8] [--rounds 5]
       [--folder 1] [--fp32 1] [--limit-side 2048 (CUDA: 8192)] [--json]
"""

import math
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import limits, now, options, show
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from atelier.core.device import choose_device, choose_precision, disable_malloc_trim
from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.gan.model import build_gan
from atelier.gan.networks import Architecture, build_networks
from atelier.gan.step import train_step
from atelier.gan.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
Shape = Sequence[int]


def settings_of(batch: int, precision: str) -> TrainSettings:
    """The tutorial's networks, 64 maps and latents of 100; as many epochs as there are turns."""
    tutorial = preset_values("celeba64", ROOT / "presets")["train"]
    return TrainSettings(**tutorial | {"batch_size": batch, "precision": precision, "epochs": 999})


class Reference:
    """The tutorial's loop."""

    def __init__(self, settings: TrainSettings, pixels: np.ndarray, folder: Path | None) -> None:
        device, arch = choose_device("auto"), architecture(settings, pixels)
        generator, discriminator = build_networks(arch, 1)
        self.netG = generator.to(device)
        self.netD = nn.Sequential(discriminator, nn.Sigmoid()).to(device)
        self.criterion = nn.BCELoss()
        self.optimizerG = torch.optim.Adam(self.netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizerD = torch.optim.Adam(self.netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.batches = loader(pixels, settings.batch_size, device, folder)
        self.device, self.latent_size = device, arch.latent_size

    def turn(self) -> float:
        """Train an epoch; return the pictures a second between its first and last step."""
        began, seen = 0.0, 0
        for number, (data, _) in enumerate(self.batches):
            if number == 1:
                began = now(self.device)
            self.step(data.to(self.device))
            seen += len(data) if number else 0
        return seen / (now(self.device) - began)

    def step(self, data: Tensor) -> tuple[float, ...]:
        """Train on one batch."""
        label = torch.full((len(data),), 1.0, device=self.device)
        self.netD.zero_grad()
        output = self.netD(data).view(-1)
        error_real = self.criterion(output, label)
        error_real.backward()
        d_x = output.mean().item()
        fake = self.netG(torch.randn(len(data), self.latent_size, device=self.device))
        label.fill_(0.0)
        output = self.netD(fake.detach()).view(-1)
        error_fake = self.criterion(output, label)
        error_fake.backward()
        d_g_z1 = output.mean().item()
        self.optimizerD.step()
        self.netG.zero_grad()
        label.fill_(1.0)
        output = self.netD(fake).view(-1)
        error = self.criterion(output, label)
        error.backward()
        d_g_z2 = output.mean().item()
        self.optimizerG.step()
        return d_x, d_g_z1, d_g_z2, (error_real + error_fake).item(), error.item()


class Ours:
    """The training of the train stage."""

    def __init__(self, settings: TrainSettings, pixels: np.ndarray, _: Path | None) -> None:
        disable_malloc_trim()
        self.device, self.times = choose_device("auto"), dict[int, float]()
        self.training = Trainer(settings, pixels, self.device)
        self.steps = self.training.steps_per_epoch
        self.epochs = self.training.run(after_step=self.note)

    def note(self) -> None:
        """Take the time after the first step and after the last."""
        at = (self.training.steps_done - 1) % self.steps
        if at in (0, self.steps - 1):
            self.times[at] = now(self.device)

    def turn(self) -> float:
        """Train an epoch; return the pictures a second between its first and last step."""
        next(self.epochs)
        seconds = self.times[self.steps - 1] - self.times[0]
        return self.training.settings.batch_size * (self.steps - 1) / seconds


def loader(
    pixels: np.ndarray, batch: int, device: torch.device, folder: Path | None
) -> DataLoader[list[Tensor]]:
    """What the tutorial reads: tensors in memory (on the device), or JPEGs of a folder."""
    if folder is None:
        scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
        data = TensorDataset(scaled.to(device), torch.zeros(len(pixels)))
        return DataLoader(data, batch, shuffle=True)
    from torchvision import datasets, transforms

    (folder / "faces").mkdir()
    for number, picture in enumerate(pixels):
        # As CelebA has them: larger than needed.
        whole = Image.fromarray(picture).resize((178, 218), Image.Resampling.BICUBIC)
        whole.save(folder / "faces" / f"{number}.jpg")
    side = pixels.shape[1]
    prepare = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    return DataLoader(datasets.ImageFolder(str(folder), prepare), batch, True, num_workers=2)


def architecture(settings: TrainSettings, pixels: np.ndarray) -> Architecture:
    """Describe the networks for these pictures."""
    return Architecture.from_settings(settings, pixels.shape[1], pixels.shape[3])


def work_of(settings: TrainSettings, arch: Architecture) -> float:
    """Return the floating point operations of a step, for each image."""
    fp32 = settings.model_copy(update={"precision": "fp32"})
    gan = build_gan(arch, fp32, torch.device("cpu"))
    real = torch.zeros(2, arch.channels, arch.image_size, arch.image_size)
    aten = torch.ops.aten
    formulas = {aten.convolution: forward_work, aten.convolution_backward: backward_work}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        train_step(gan, real, torch.zeros(2, arch.latent_size))
    return counter.get_total_flops() / 2


def forward_work(
    images: Shape,
    weight: Shape,
    _bias: Shape | None,
    stride: Shape,
    padding: Shape,
    _dilation: Shape,
    transposed: bool,
    *_: object,
    out_shape: Shape,
) -> int:
    """Return the operations of a convolution, without products by the zeros of its padding.

    Libraries leave these out; in the layers of a DCGAN they are 3% (32x32) to 23% (4x4).
    """
    wide, narrow = (out_shape, images) if transposed else (images, out_shape)
    places = [
        sum(
            0 <= window * step - pad + tap < side
            for window in range(windows)
            for tap in range(kernel)
        )
        for side, windows, kernel, step, pad in zip(
            wide[2:], narrow[2:], weight[2:], stride, padding, strict=True
        )
    ]
    return 2 * images[0] * weight[0] * weight[1] * math.prod(places)


def backward_work(gradient: Shape, images: Shape, weight: Shape, *rest: Any, **_: object) -> int:
    """Return the operations of a convolution's gradients: each needs the products of the output."""
    bias, stride, padding, dilation, transposed, _output_padding, _groups, computed = rest
    arguments = (images, weight, bias, stride, padding, dilation, transposed)
    return sum(computed[:2]) * forward_work(*arguments, out_shape=gradient)


class Turns:
    """A program in a process of its own, which waits between its turns."""

    def __init__(self, make: type, *given: object) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), begin, (make, *given))

    def take(self) -> float:
        """Let it take a turn; return pictures a second."""
        return self.pool.submit(turn).result()


def begin(make: type, *given: object) -> None:
    """Make the program of this process."""
    global program
    program = make(*given)


def turn() -> float:
    """Take a turn with the program of this process."""
    return program.turn()


def main() -> None:
    """Measure and print."""
    given = options(__doc__, side=64, batch=128, steps=8, rounds=5, folder=0, fp32=0, limit_side=0)
    device = choose_device("auto")
    settings = settings_of(given.batch, "fp32" if given.fp32 else "auto")
    count = given.batch * given.steps
    small = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    pixels = small.repeat(given.side // 8, axis=1).repeat(given.side // 8, axis=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if given.folder else None
        programs = [Turns(make, settings, pixels, folder) for make in (Reference, Ours)]
        # The first round warms up.
        measured = [[each.take() for each in programs] for _ in range(given.rounds + 1)][1:]
    theirs, mine = (statistics.median(column) for column in zip(*measured, strict=True))
    precision = choose_precision(settings.precision, device)
    rates = limits(device, given.limit_side)
    limit = rates["bf16" if precision == "bf16" else "fp32"]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    result = {
        "name": f"train {given.side}x{given.side}, batch {given.batch}, {where}",
        "reference": round(theirs, 1),
        "ours": round(mine, 1),
        "ratio": round(statistics.median(b / a for a, b in measured), 2),
        "limit_share": round(mine * work_of(settings, architecture(settings, pixels)) / limit, 3),
        "precision": precision,
        **{f"limit_{name}_gigas": round(rate / 1e9, 1) for name, rate in rates.items()},
    }
    show(result, given.json)


if __name__ == "__main__":
    main()
