"""Share of a generator's own images that `atelier invert` finds, and the time of each.

Each image has other starts. An image counts as found if its PSNR is above 25 dB.

Usage: python benchmarks/inversion.py [--generator models/generator.safetensors] [--images 100]
[--starts 4] [--json]
"""

import time
from pathlib import Path

import numpy as np
import torch
from command import options, show

from atelier.gan.generation import draw_latents, generate
from atelier.gan.serialization import load_generator
from atelier.latents.distances import load_vgg
from atelier.latents.inversion import InversionOptions, invert

FOUND = 25.0  # PSNR in dB
_SEED = 1000  # of the images' latents


def main() -> None:
    """Measure and print the result."""
    starts = InversionOptions().starts
    file = Path("models/generator.safetensors")
    arguments = options(__doc__, generator=file, images=100, starts=starts)
    torch.set_num_threads(1)
    generator = load_generator(arguments.generator)
    latents = draw_latents(arguments.images, generator, _SEED)
    vgg = load_vgg(generator.device)
    values, seconds, errors = [], [], []
    for number, target in enumerate(generate(generator.network, latents)):
        begin = time.process_time()
        chosen = InversionOptions(starts=arguments.starts, seed=number)
        result = invert(generator, target, chosen, vgg=vgg)
        seconds.append(time.process_time() - begin)
        values.append(result.psnr)
        errors.append(float((result.latent - latents[number]).norm() / latents[number].norm()))
        print(f"{number:4d}: {result.psnr:5.1f} dB, {seconds[-1]:.1f} s", flush=True)
    measured = {
        "name": "inversion of own images",
        "images": arguments.images,
        "found": sum(value > FOUND for value in values),
        "lowest_psnr": round(min(values), 1),
        "median_psnr": round(float(np.median(values)), 1),
        "median_seconds_of_one_core": round(float(np.median(seconds)), 2),
        "longest_seconds_of_one_core": round(max(seconds), 2),
        "median_relative_error_of_latent": round(float(np.median(errors)), 3),
    }
    show(measured, arguments.json)


if __name__ == "__main__":
    main()
