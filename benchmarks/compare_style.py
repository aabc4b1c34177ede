"""Results of the tutorial's loop and of Atelier with the same weights, as a contact sheet.

The reference is the loop of `style.py`, with its results clipped as when saved. Atelier's results
come from the function of the stylize stage. Both use the weights of --weights. With random
weights Atelier has the settings of the sample preset, with other weights the tutorial's layers.
Without content images, faces of a trained generator are stylized in the night sky style.

Usage: python benchmarks/compare_style.py OUT.png [--generator FILE] [--faces 3] [--pixels 128]
       [--evaluations 300] [--iterations 0] [--contents FILE ...] [--styles FILE ...]
       [--weights FILE] [--json]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from command import show

from atelier.core.arrays import to_uint8
from atelier.core.presets import preset_values
from atelier.core.settings import StylizeSettings
from atelier.data.image_file import read_image
from atelier.figures.contact_sheet import contact_sheet
from atelier.figures.grid import save_png
from atelier.gan.serialization import generate_from
from atelier.style.batch import load_vgg, stylize
from atelier.style.demo_styles import night_sky_image
from atelier.style.inputs import StyleInputs, resize_to_tensor
from style import ROOT, build_network, reference, style_settings

CPU = torch.device("cpu")
Images = dict[str, np.ndarray]


def stylize_by_reference(
    content: np.ndarray, style: np.ndarray, options: argparse.Namespace
) -> np.ndarray:
    """Return the result of the tutorial's loop, uint8 [H, W, 3]."""
    pixels, weights = options.pixels, options.weights
    content_tensor, style_tensor = (resize_to_tensor(image, pixels) for image in (content, style))
    vgg = build_network(weights, style_tensor)
    settings = style_settings(pixels, weights, clamp_to_range=False)
    steps = reference(content_tensor, style_tensor, vgg, settings, options.evaluations, clamp=False)
    return to_uint8(steps[-1][1], signed=False)[0].cpu().numpy()


def stylize_by_stage(contents: Images, styles: Images, options: argparse.Namespace) -> Images:
    """Return the results of the stylize stage's function, uint8 [H, W, 3] by name."""
    weights = {"weights": Path(options.weights).name}
    if options.weights == "random":
        sample = preset_values("sample", ROOT / "presets")["stylize"]
        if options.iterations:
            sample["iterations"] = options.iterations
        settings = StylizeSettings(**sample | {"image_size": options.pixels} | weights)
    else:
        settings = style_settings(options.pixels, options.weights, clamp_to_range=True)
        settings = settings.model_copy(update=weights)
    vgg = load_vgg(settings, Path(options.weights).parent)
    results = stylize(StyleInputs(contents, styles), settings, vgg)
    return {image.name: image.pixels for image in results}


def read_images(files: list[Path]) -> Images:
    """Read images; the keys are the names of the files."""
    return {file.stem: read_image(file, "rgb", 80) for file in files}


def parse_options() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--generator", type=Path, default=ROOT / "models/generator.safetensors")
    parser.add_argument("--faces", type=int, default=3)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--evaluations", type=int, default=300, help="of the reference")
    parser.add_argument("--iterations", type=int, default=0, help="of Atelier; 0: the preset's")
    parser.add_argument("--contents", type=Path, nargs="+")
    parser.add_argument("--styles", type=Path, nargs="+")
    parser.add_argument("--weights", default="random", help="a file of VGG19's weights")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    return parser.parse_args()


def main() -> None:
    """Stylize by both methods, and write the contact sheet."""
    options = parse_options()
    contents = read_images(options.contents or [])
    if not contents:
        faces = generate_from(options.generator, options.faces, 1, CPU)
        contents = {f"face {number}": face for number, face in enumerate(faces, 1)}
    styles = read_images(options.styles or []) or {"night_sky": night_sky_image(256, 1)}
    results = stylize_by_stage(contents, styles, options)
    rows = [
        [
            (content, content_name),
            (style, style_name),
            (stylize_by_reference(content, style, options), "tutorial"),
            (results[f"{content_name}-{style_name}"], "Atelier"),
        ]
        for style_name, style in styles.items()
        for content_name, content in contents.items()
    ]
    sheet = contact_sheet(["content", "style", "reference", "Atelier"], rows)
    save_png(sheet, options.out)
    height, width = sheet.shape[:2]
    result = {"name": "compare_style", "rows": len(rows), "height": height, "width": width}
    show({**result, "file": str(options.out)}, options.json)


if __name__ == "__main__":
    main()
