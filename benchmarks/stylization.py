"""Visibility of styles and faces in stylized images, measured by independent networks.

Drawn or generated faces are stylized in every built-in style with the settings of a preset. The
metrics use networks that the style transfer did not use. Each metric has a limit:

- style: fraction of images whose Gram matrices are nearest to their own style's (at least 95%);
- face: fraction of images whose content features are nearest to their own face's (at least 95%);
- distance: Gram distance (Frobenius norm) to the style, relative to that of the original face:
  the mean over images, for the worst style layer (at most 0.4).

`worst_style` is the distance of the worst style and layer: the mean over faces.

Two negative controls must fail: the original faces, and faces with the mean color of the style.
Content features are maps whose channels have mean 0 and variance 1, so that they do not depend on
color or texture alone (after Huang and Belongie 2017, "Arbitrary style transfer in real-time with
adaptive instance normalization", https://arxiv.org/abs/1703.06868).

Usage: python benchmarks/stylization.py VGG19_FILE [--models FOLDER] [--faces 16] [--preset sample]
       [--size PIXELS] [--sheet FILE] [--set NAME=VALUE ...] [--json]
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from ruamel.yaml import YAML
from torch import Tensor

from atelier.core.presets import preset_values
from atelier.core.setting_types import STYLES
from atelier.core.settings import StylizeSettings
from atelier.figures.grid import save_png
from atelier.sample_faces.portrait import random_portrait
from atelier.style.batch import load_vgg, stylize
from atelier.style.demo_styles import demo_style_image
from atelier.style.inputs import StyleInputs, resize_to_tensor
from atelier.style.losses import gram_matrix
from atelier.style.vgg import build_vgg19, feature_maps, preprocess

Pixels = NDArray[np.uint8]
Maps = Callable[[Tensor], dict[int, Tensor]]
ROOT = Path(__file__).resolve().parents[1]
STYLE_LAYERS, CONTENT_LAYER = (1, 6, 11, 20, 25), 20


def vgg_maps(file: Path) -> Maps:
    """Return the function that computes a VGG19's feature maps."""
    vgg = build_vgg19(str(file), "max", 0, max(STYLE_LAYERS))
    layers = {*STYLE_LAYERS, CONTENT_LAYER}
    return lambda image: feature_maps(vgg, preprocess(image, "torchvision"), layers)


def discriminator_maps(folder: Path) -> tuple[Maps, int]:
    """Return the function that computes a discriminator's maps, and its image size."""
    from safetensors import safe_open

    from atelier.gan.networks import Architecture, build_networks

    with safe_open(folder / "discriminator.safetensors", framework="pt") as file:
        description = json.loads(file.metadata()["architecture"])
        description.pop("marks", None)
        arch = Architecture(**description)
        network = build_networks(arch, seed=0)[1]
        network.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    network.eval()

    def compute_maps(image: Tensor) -> dict[int, Tensor]:
        maps: dict[int, Tensor] = {}
        hooks = [
            layer.register_forward_hook(
                lambda _m, _i, output, number=number: maps.__setitem__(number, output)
            )
            for number, layer in enumerate(
                m for m in network.modules() if isinstance(m, torch.nn.LeakyReLU)
            )
        ]
        side = arch.image_size
        small = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
        network(small * 2 - 1)
        for hook in hooks:
            hook.remove()
        return maps

    return compute_maps, arch.image_size


def normalize_channels(maps: Tensor) -> Tensor:
    """Standardize every channel of ``[1, C, H, W]`` to mean 0 and variance 1."""
    flat = maps.flatten(2)
    return (flat - flat.mean(2, keepdim=True)) / (flat.std(2, keepdim=True) + 1e-5)


@torch.no_grad()
def measure(
    images: Mapping[tuple[str, str], Pixels],
    faces: Mapping[str, Pixels],
    styles: Mapping[str, Pixels],
    maps_of: Maps,
    size: int,
) -> dict[str, float]:
    """Return the metrics of images, by face and style, with one network."""
    face_maps = {name: maps_of(resize_to_tensor(face, size)) for name, face in faces.items()}
    style_maps = {name: maps_of(resize_to_tensor(style, size)) for name, style in styles.items()}
    layers = sorted(next(iter(face_maps.values())))
    content = CONTENT_LAYER if CONTENT_LAYER in layers else layers[-1]
    grams = {name: [gram_matrix(maps[at]) for at in layers] for name, maps in style_maps.items()}
    contents = {name: normalize_channels(maps[content]) for name, maps in face_maps.items()}
    style_hits, face_hits, ratios = [], [], []
    by_style: dict[str, list[list[float]]] = {name: [] for name in styles}
    for (face, style), image in images.items():
        maps = maps_of(resize_to_tensor(image, size))
        own_grams = [gram_matrix(maps[at]) for at in layers]

        def distance(name: str, own_grams: list[Tensor] = own_grams) -> float:
            pairs = zip(own_grams, grams[name], strict=True)
            return sum(float((a - b).norm() / b.norm()) for a, b in pairs)

        style_hits.append(min(styles, key=distance) == style)
        own_content = normalize_channels(maps[content])
        nearest = min(faces, key=lambda name: float((contents[name] - own_content).norm()))
        face_hits.append(nearest == face)
        face_grams = [gram_matrix(face_maps[face][at]) for at in layers]
        ratios.append(
            [
                float((a - g).norm() / (b - g).norm())
                for a, b, g in zip(own_grams, face_grams, grams[style], strict=True)
            ]
        )
        by_style[style].append(ratios[-1])
    by_layer = np.mean(ratios, axis=0)
    return {
        "style": float(np.mean(style_hits)),
        "face": float(np.mean(face_hits)),
        "distance": float(by_layer.max()),
        "worst_style": max(float(np.mean(rows, axis=0).max()) for rows in by_style.values()),
        **{f"distance_{at}": float(value) for at, value in zip(layers, by_layer, strict=True)},
    }


def color_cast(face: Pixels, style: Pixels) -> Pixels:
    """Give a face the style's mean color."""
    shift = style.mean((0, 1)) - face.mean((0, 1))
    return (face + shift).clip(0, 255).astype(np.uint8)


def load_faces(options: argparse.Namespace, seed: int) -> dict[str, Pixels]:
    """Return generated faces if there is a folder of models, otherwise drawn ones, by name."""
    if options.models:
        from atelier.gan.serialization import generate_from

        generator = options.models / "generator.safetensors"
        pixels = generate_from(generator, options.faces, seed, torch.device("cpu"))
    else:
        rng = np.random.default_rng(1)
        pixels = np.stack([random_portrait(64, 64, rng) for _ in range(options.faces)])
    return {f"face_{number:02d}": face for number, face in enumerate(pixels, 1)}


def save_sheet(images: Mapping[tuple[str, str], Pixels], file: Path) -> None:
    """Write all images, by face and style, with a row for each face; two columns if even."""
    faces = dict.fromkeys(face for face, _ in images)
    styles = dict.fromkeys(style for _, style in images)
    rows = [np.hstack([images[face, style] for style in styles]) for face in faces]
    half = (len(rows) + 1) // 2
    columns = (
        [np.vstack(rows[:half]), np.vstack(rows[half:])]
        if len(rows) % 2 == 0
        else [np.vstack(rows)]
    )
    save_png(np.hstack(columns), file)


def load_settings(options: argparse.Namespace) -> StylizeSettings:
    """Return the settings of the preset with the changes of the command line."""
    yaml = YAML(typ="safe")
    changes = {key: yaml.load(value) for key, value in (one.split("=", 1) for one in options.set)}
    values = preset_values(options.preset, ROOT / "presets")["stylize"] | changes
    values["pairing"] = "product"
    if options.size:
        values["image_size"] = options.size
    return StylizeSettings.model_validate(values)


def parse_options() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="a VGG19 that the preset does not use")
    parser.add_argument("--models", type=Path, help="a folder of trained networks")
    parser.add_argument("--faces", type=int, default=16)
    parser.add_argument("--preset", default="sample")
    parser.add_argument("--size", type=int, default=0, help="pixels; default: the preset's")
    parser.add_argument("--sheet", type=Path, help="write all stylized images as one PNG file")
    parser.add_argument(
        "--set", nargs="*", default=[], help="settings, e.g. 'content_layers={21: 9}'"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Stylize, measure, and print."""
    options = parse_options()
    settings = load_settings(options)
    size = settings.image_size
    networks: dict[str, tuple[Maps, int]] = {"vgg19": (vgg_maps(options.weights), size)}
    if options.models:
        networks["discriminator"] = discriminator_maps(options.models)
    faces = load_faces(options, settings.seed)
    styles = {name: demo_style_image(name, 2 * size, settings.seed) for name in STYLES}
    stylized = {
        (image.content_image, image.styles): image.pixels
        for image in stylize(StyleInputs(faces, styles), settings, load_vgg(settings, Path()))
    }
    if options.sheet:
        save_sheet(stylized, options.sheet)
    originals = {(face, style): faces[face] for face in faces for style in styles}
    cast = {(f, s): color_cast(faces[f], styles[s]) for f in faces for s in styles}
    kinds = {"painted": stylized, "unpainted": originals, "color cast": cast}
    results = {
        f"{network}, {kind}": measure(images, faces, styles, maps_of, at)
        for network, (maps_of, at) in networks.items()
        for kind, images in kinds.items()
    }
    for name, numbers in results.items():
        print(f"{name:<28}", ", ".join(f"{key} {value:.3f}" for key, value in numbers.items()))
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
