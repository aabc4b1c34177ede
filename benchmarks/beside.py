"""The chapter's method and ours beside each other, with the same weights: a sheet to look at.

The reference is the loop of `style.py`, as its canvas is saved. Ours is the stylize stage's
function. Both take the weights that --weights chooses: with random ones ours has the sample's other
settings, with learned ones the chapter's layers.
Without pictures, faces of a trained generator are painted in the drawn style.

Usage: python benchmarks/beside.py OUT.png [--generator FILE] [--faces 3] [--pixels 128]
       [--evaluations 300] [--iterations 0] [--contents FILE ...] [--styles FILE ...]
       [--weights FILE] [--json]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from command import show

from atelier.core.presets import preset_values
from atelier.core.settings import StylizeSettings
from atelier.data.image_file import read_image
from atelier.figures.contact_sheet import contact_sheet
from atelier.figures.grid import save_png
from atelier.gan.serialization import generate_from
from atelier.style.batch import stylize
from atelier.style.demo_styles import night_sky_image
from atelier.style.image_ops import to_tensor, to_uint8
from style import ROOT, network, reference, settings

CPU = torch.device("cpu")
Pictures = dict[str, np.ndarray]


def plainly(content: np.ndarray, style: np.ndarray, asked: argparse.Namespace) -> np.ndarray:
    """Paint by the chapter's loop; uint8 [H, W, 3]."""
    pixels, weights = asked.pixels, asked.weights
    prepared = [to_tensor(picture, pixels) for picture in (content, style)]
    vgg = network(weights, prepared[1])
    wanted = settings(pixels, weights, clamp_to_range=False)
    canvases = reference(*prepared, vgg, wanted, asked.evaluations, clamp=False)
    return to_uint8(canvases[-1][1])[0]


def by_the_stage(contents: Pictures, styles: Pictures, asked: argparse.Namespace) -> Pictures:
    """Paint all by the stylize stage's function; uint8 [H, W, 3] by content and style."""
    weights = {"weights": Path(asked.weights).name}
    if asked.weights == "random":
        sample = preset_values("sample", ROOT / "presets")["stylize"]
        if asked.iterations:
            sample["iterations"] = asked.iterations
        wanted = StylizeSettings(**sample | {"image_size": asked.pixels} | weights)
    else:
        wanted = settings(asked.pixels, asked.weights, clamp_to_range=True).model_copy(
            update=weights
        )
    painted = stylize(wanted, contents, styles, [], Path(asked.weights).parent, CPU)
    return {one.name: one.pixels for one in painted}


def named(files: list[Path]) -> Pictures:
    """Pictures by their names."""
    return {file.stem: read_image(file, "rgb", 80) for file in files}


def main() -> None:
    """Paint and lay out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", type=Path, default=ROOT / "models/generator.safetensors")
    parser.add_argument("--faces", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--evaluations", type=int, default=300, help="of the reference")
    parser.add_argument("--iterations", type=int, default=0, help="of ours; 0: as the sample's")
    parser.add_argument("--contents", type=Path, nargs="+")
    parser.add_argument("--styles", type=Path, nargs="+")
    parser.add_argument("--weights", default="random", help="a file of VGG19's weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    asked = parser.parse_args()
    contents = named(asked.contents or [])
    if not contents:
        faces = generate_from(asked.generator, asked.faces, 1, CPU)
        contents = {f"face {number}": face for number, face in enumerate(faces, 1)}
    styles = named(asked.styles or []) or {"drawn": night_sky_image(256, 1)}
    ours = by_the_stage(contents, styles, asked)
    rows = [
        [
            (picture, name),
            (style, look),
            (plainly(picture, style, asked), "the chapter's loop"),
            (ours[f"{name}-{look}"], "Atelier"),
        ]
        for look, style in styles.items()
        for name, picture in contents.items()
    ]
    picture = contact_sheet(["content", "style", "plain", "ours"], rows)
    save_png(picture, asked.out)
    height, width = picture.shape[:2]
    result = {"name": "beside", "rows": len(rows), "height": height, "width": width}
    show({**result, "file": str(asked.out)}, asked.json)


if __name__ == "__main__":
    main()
