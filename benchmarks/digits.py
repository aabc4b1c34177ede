"""Distribution and legibility of the digits that a generator trained on MNIST generates.

A small classifier is trained on data/images.npz, with the last folder of each name as the label. It
then classifies 1,000 generated digits.

Usage, after a run of the preset mnist28: python benchmarks/digits.py [--images FILE]
[--generator FILE] [--generated 1000] [--held-out 5000] [--json]
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from command import options, show
from torch import Tensor, nn

from atelier.data.dataset import load_images
from atelier.gan.generation import draw_latents, generate
from atelier.gan.serialization import load_generator

EPOCHS = 5


def scaled(pixels: np.ndarray) -> Tensor:
    """Convert uint8 [N, 28, 28, 1] to float32 [N, 1, 28, 28], 0 to 1."""
    return torch.tensor(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255


def learn(pictures: Tensor, labels: Tensor) -> nn.Module:
    """Train a small convolutional network."""
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(pictures)).split(128):
            adam.zero_grad()
            F.cross_entropy(network(pictures[batch]), labels[batch]).backward()
            adam.step()
    return network.eval()


def main() -> None:
    """Train the classifier, classify generated digits, and print the results."""
    arguments = options(
        __doc__,
        images=Path("data/images.npz"),
        generator=Path("models/generator.safetensors"),
        generated=1000,
        held_out=5000,
    )
    torch.manual_seed(0)
    images = load_images(arguments.images)
    labels = torch.tensor(images.classes()[1])
    order = torch.randperm(len(labels))
    kept, held_out = order[arguments.held_out :], order[: arguments.held_out]
    network = learn(scaled(images.pixels[kept.numpy()]), labels[kept])
    trained = load_generator(arguments.generator)
    with torch.inference_mode():
        real = network(scaled(images.pixels[held_out.numpy()])).softmax(dim=1)
        digits = generate(trained.network, draw_latents(arguments.generated, trained, seed=1))
        surely, which = network(scaled(digits)).softmax(dim=1).max(dim=1)
    result = {
        "name": "digits",
        "classifier_accuracy": round(
            float((real.argmax(dim=1) == labels[held_out]).float().mean()), 4
        ),
        "real_share_over_0.9": round(float((real.amax(dim=1) > 0.9).float().mean()), 3),
        "generated_per_digit": which.bincount(minlength=10).tolist(),
        "share_over_0.9": round(float((surely > 0.9).float().mean()), 3),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
