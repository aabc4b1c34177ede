"""Training throughput of Atelier and of PyTorch's DCGAN tutorial, in images per second.

The reference is the tutorial's loop, written anew: float32, five device synchronizations per step,
binary cross entropy after a sigmoid, and gradients of the discriminator's weights also in the
generator's update. Both train networks of equal layers on equal random images with equal batches.
They run alternately, each in its own process, and each epoch is timed from the end of its first
step to the end of its last. The reference reads from memory, or with --folder 1 from a folder of
JPEGs with two workers, as the tutorial does.

``limit_share`` is the share of the hardware's highest matrix-product rate in the training's
precision, measured in the same run. It counts the work of all convolutions, without the products by
the zeros of their padding.

On a GPU, an epoch has 200 steps, because the clocks of an idle GPU take a while to rise. There the
reference's loader indexes its tensors image by image, which is part of its time, as it is of the
tutorial's.

Usage: python benchmarks/train.py [--side 64] [--batch 128] [--steps 8 (CUDA: 200)] [--rounds 5]
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
from atelier.gan.step import Batch, train_step
from atelier.gan.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
Shape = Sequence[int]


def tutorial_settings(batch: int, precision: str) -> TrainSettings:
    """Return the tutorial's settings (64 channels, latents of 100), with enough epochs to time."""
    tutorial = preset_values("celeba64", ROOT / "presets")["train"]
    return TrainSettings(**tutorial | {"batch_size": batch, "precision": precision, "epochs": 999})


class Reference:
    """The training loop of PyTorch's DCGAN tutorial."""

    def __init__(self, settings: TrainSettings, pixels: np.ndarray, folder: Path | None) -> None:
        device, arch = choose_device("auto"), architecture(settings, pixels)
        generator, discriminator = build_networks(arch, 1)
        self.netG = generator.to(device)
        self.netD = nn.Sequential(discriminator, nn.Sigmoid()).to(device)
        self.criterion = nn.BCELoss()
        self.optimizerG = torch.optim.Adam(self.netG.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizerD = torch.optim.Adam(self.netD.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.batches = data_loader(pixels, settings.batch_size, device, folder)
        self.device, self.latent_size = device, arch.latent_size

    def run_epoch(self) -> float:
        """Train an epoch; return the images per second without its first step."""
        start, images = 0.0, 0
        for number, (data, _) in enumerate(self.batches):
            if number == 1:
                start = now(self.device)
            self.step(data.to(self.device))
            images += len(data) if number else 0
        return images / (now(self.device) - start)

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


class Atelier:
    """The training loop of the train stage."""

    def __init__(self, settings: TrainSettings, pixels: np.ndarray, _: Path | None) -> None:
        disable_malloc_trim()
        self.device, self.seconds = choose_device("auto"), dict[int, float]()
        self.trainer = Trainer(settings, pixels, self.device)
        self.steps = self.trainer.steps_per_epoch
        self.epochs = self.trainer.run(after_step=self.record_time)

    def record_time(self) -> None:
        """Record the time after the first and the last step of an epoch."""
        step = (self.trainer.steps_done - 1) % self.steps
        if step in (0, self.steps - 1):
            self.seconds[step] = now(self.device)

    def run_epoch(self) -> float:
        """Train an epoch; return the images per second without its first step."""
        next(self.epochs)
        seconds = self.seconds[self.steps - 1] - self.seconds[0]
        return self.trainer.settings.batch_size * (self.steps - 1) / seconds


def data_loader(
    pixels: np.ndarray, batch: int, device: torch.device, folder: Path | None
) -> DataLoader[list[Tensor]]:
    """Return the tutorial's loader: of tensors on the device, or of JPEGs in a folder."""
    if folder is None:
        scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
        data = TensorDataset(scaled.to(device), torch.zeros(len(pixels)))
        return DataLoader(data, batch, shuffle=True)
    from torchvision import datasets, transforms

    (folder / "faces").mkdir()
    for number, image in enumerate(pixels):
        # CelebA's size, which is larger than that of the networks.
        enlarged = Image.fromarray(image).resize((178, 218), Image.Resampling.BICUBIC)
        enlarged.save(folder / "faces" / f"{number}.jpg")
    side = pixels.shape[1]
    transform = transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    return DataLoader(datasets.ImageFolder(str(folder), transform), batch, True, num_workers=2)


def architecture(settings: TrainSettings, pixels: np.ndarray) -> Architecture:
    """Return the architecture for these images."""
    return Architecture.from_settings(settings, pixels.shape[1], pixels.shape[3])


def flops_per_image(settings: TrainSettings, arch: Architecture) -> float:
    """Return the floating point operations of a training step, per image."""
    fp32 = settings.model_copy(update={"precision": "fp32"})
    gan = build_gan(arch, fp32, torch.device("cpu"))
    real = torch.zeros(2, arch.channels, arch.image_size, arch.image_size)
    aten = torch.ops.aten
    formulas = {aten.convolution: forward_work, aten.convolution_backward: backward_work}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        train_step(gan, Batch(real, torch.zeros(2, arch.latent_size)))
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

    Libraries omit these products; in a DCGAN they are 3% (32x32 maps) to 23% (4x4) of all.
    """
    large, small = (out_shape, images) if transposed else (images, out_shape)
    products_per_axis = [
        sum(
            0 <= window * step - pad + offset < size
            for window in range(windows)
            for offset in range(kernel)
        )
        for size, windows, kernel, step, pad in zip(
            large[2:], small[2:], weight[2:], stride, padding, strict=True
        )
    ]
    return 2 * images[0] * weight[0] * weight[1] * math.prod(products_per_axis)


def backward_work(gradient: Shape, images: Shape, weight: Shape, *rest: Any, **_: object) -> int:
    """Return the operations of a convolution's gradients; each has as many as the convolution."""
    bias, stride, padding, dilation, transposed, _output_padding, _groups, output_mask = rest
    arguments = (images, weight, bias, stride, padding, dilation, transposed)
    return sum(output_mask[:2]) * forward_work(*arguments, out_shape=gradient)


class Worker:
    """A training loop in its own process, which runs one epoch at a time."""

    def __init__(self, loop: type, *arguments: object) -> None:
        self.pool = ProcessPoolExecutor(1, get_context("spawn"), start_training, (loop, *arguments))

    def run_epoch(self) -> float:
        """Train an epoch in the worker; return images per second."""
        return self.pool.submit(run_epoch).result()


training: Any  # the loop of a worker process, set by start_training


def start_training(loop: type, *arguments: object) -> None:
    """Build the training loop of this process."""
    global training
    training = loop(*arguments)


def run_epoch() -> float:
    """Train an epoch with the training loop of this process."""
    return training.run_epoch()


def main() -> None:
    """Measure both loops and print the result."""
    arguments = options(
        __doc__, side=64, batch=128, steps=0, rounds=5, folder=0, fp32=0, limit_side=0
    )
    device = choose_device("auto")
    settings = tutorial_settings(arguments.batch, "fp32" if arguments.fp32 else "auto")
    steps = arguments.steps or (200 if device.type == "cuda" else 8)
    count, scale = arguments.batch * steps, arguments.side // 8
    small = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    pixels = small.repeat(scale, axis=1).repeat(scale, axis=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if arguments.folder else None
        workers = [Worker(loop, settings, pixels, folder) for loop in (Reference, Atelier)]
        # The first round warms up.
        rounds = [[worker.run_epoch() for worker in workers] for _ in range(arguments.rounds + 1)][
            1:
        ]
    reference, ours = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    precision = choose_precision(settings.precision, device)
    rates = limits(device, arguments.limit_side)
    limit = rates["bf16" if precision == "bf16" else "fp32"]
    flops = flops_per_image(settings, architecture(settings, pixels))
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    result = {
        "name": f"train {arguments.side}x{arguments.side}, batch {arguments.batch}, {hardware}",
        "reference": round(reference, 1),
        "ours": round(ours, 1),
        "ratio": round(statistics.median(b / a for a, b in rounds), 2),
        "limit_share": round(ours * flops / limit, 3),
        "precision": precision,
        **{f"limit_{name}_gigas": round(rate / 1e9, 1) for name, rate in rates.items()},
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
