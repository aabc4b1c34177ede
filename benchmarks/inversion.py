"""Share of a generator's own images that `atelier invert` finds, and the time of each.

Run in a project with a trained generator:

    python benchmarks/inversion.py --images 100
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from atelier.gan.generation import draw_latents, generate
from atelier.gan.serialization import load_generator
from atelier.latents.distances import load_vgg
from atelier.latents.inversion import InversionOptions, invert

REQUIRED = 25.0  # PSNR in dB


def main() -> None:
    """Invert images of random latents, and print the PSNR and the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/generator.safetensors"))
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000, help="of the images' latents")
    parser.add_argument("--starts", type=int, default=InversionOptions().starts)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    generator = load_generator(arguments.model)
    latents = draw_latents(arguments.images, generator, arguments.seed)
    targets = generate(generator.network, latents)
    vgg = load_vgg(generator.device)
    values, seconds, errors = [], [], []
    for number, target in enumerate(targets):
        started = time.process_time()
        options = InversionOptions(starts=arguments.starts, seed=number)
        result = invert(generator, target, options, vgg=vgg)
        seconds.append(time.process_time() - started)
        values.append(result.psnr)
        errors.append(float((result.latent - latents[number]).norm() / latents[number].norm()))
        print(f"{number:4d}: {result.psnr:5.1f} dB, {seconds[-1]:.1f} s", flush=True)
    found = sum(value > REQUIRED for value in values)
    print(f"{found} of {len(values)} images have a PSNR of more than {REQUIRED:g} dB")
    for name, measured in (
        ("PSNR in dB", values),
        ("seconds of one core", seconds),
        ("relative error of the latent", errors),
    ):
        low, median, high = np.percentile(measured, (0, 50, 100))
        print(f"{name}: minimum {low:.3g}, median {median:.3g}, maximum {high:.3g}")


if __name__ == "__main__":
    main()
