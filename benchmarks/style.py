"""How fast a picture is painted as well as by the loop of the book's chapter.

The reference is that loop in our own words: float32, one scale, hooks around a pass of all of
VGG19 for every loss, torch's L-BFGS as it comes, 500 evaluations. Ours is the stylize stage's
function with the settings of OURS. Both minimise the chapter's sum for square pictures (style at
layers 1, 6, 11, 20 and 25, content at 21; of learned features with the chapter's weights), both
are timed from pictures and a network in memory to a painting, and both are judged by one float32
evaluation of the canvas. `ratio` is of the seconds to the least loss that the reference came to.

The reference knows no screen: what is saved of its canvas, colours cut to what a screen shows,
loses by the cut, more the longer it paints. With --saved the pictures are judged as they are saved,
and ours paints within the screen as the stage does. With --clamp the reference's canvas is cut
before every evaluation, as PyTorch's tutorial does.

The limit is the time that the convolutions of our evaluations take at the rates of matrix products
and memory that this run measures, layer by layer the slower of the two.

Without files, the network has seeded random weights and the pictures are drawn. With a file of
weights of VGG19 (through conv4_4 at least) and two pictures it is about learned features.

Usage: python benchmarks/style.py [--json] [--pixels 256 (CUDA: 512)] [--evaluations 500]
[--iterations 220] [--rounds 3] [--saved] [--clamp] [--weights FILE]
[--content FILE --style FILE] [--save FOLDER] [--limit-side 2048 (CUDA: 8192)]
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from command import limits, now, show
from torch import Tensor, nn

from atelier.core.device import choose_device, native_bf16
from atelier.core.presets import preset_values
from atelier.core.settings import StylizeSettings
from atelier.data.image_file import read_image
from atelier.figures.grid import save_png
from atelier.sample_faces.portrait import random_portrait
from atelier.style.demo_styles import night_sky_image
from atelier.style.image_ops import to_tensor, to_uint8
from atelier.style.loss_log import Checkpointer
from atelier.style.objective import FeatureObjective, Style, build_targets, weighted_sum
from atelier.style.transfer import transfer_style
from atelier.style.vgg import build_vgg19, calibrate, preprocess

ROOT = Path(__file__).resolve().parents[1]
STYLE_LAYERS = {1: 64, 6: 128, 11: 256, 20: 512, 25: 512}  # and their channels
CONTENT_LAYER = 21
LEARNED = ({layer: 1e3 / channels**2 for layer, channels in STYLE_LAYERS.items()}, 1.0)
# For random features, whose layers respond at unit scale. The weights are large, because the
# reference's L-BFGS ends at absolute tolerances, which would otherwise stop it at once.
RANDOM = (dict.fromkeys(STYLE_LAYERS, 1e3), 150.0)
OURS = {"optimizer": "spectral", "iterations": 220, "precision": "auto"}
PIXELS = {"cuda": 512}


def settings(pixels: int, weights: str, bounded: bool) -> StylizeSettings:
    """Ours: the chapter's sum, our way down."""
    style_weights, content_weight = RANDOM if weights == "random" else LEARNED
    chapter = preset_values("gatys", ROOT / "presets")["stylize"]
    changed = {
        "image_size": pixels,
        "memory_gb": 0.0,
        "preprocessing": "torchvision",
        "weights": "random" if weights == "random" else "imagenet",
        "style_layers": style_weights,
        "content_layers": {CONTENT_LAYER: content_weight},
        "init": "content",
        "clamp_to_range": bounded,
        **OURS,
    }
    return StylizeSettings.model_validate(chapter | changed)


def square(file: str, drawn: Callable[[], np.ndarray], pixels: int) -> Tensor:
    """The middle of a picture, or one that is drawn, float32 [1, 3, pixels, pixels]."""
    picture = read_image(Path(file), "rgb", 80) if file else drawn()
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return to_tensor(np.ascontiguousarray(picture[top : top + side, left : left + side]), pixels)


Seen = list[tuple[float, Tensor]]


def reference(
    content: Tensor,
    style: Tensor,
    vgg: nn.Sequential,
    wanted: StylizeSettings,
    evaluations: int,
    clamp: bool,
) -> Seen:
    """The chapter's loop: canvases, and the seconds that each took."""
    layers = [*STYLE_LAYERS, CONTENT_LAYER]
    weights = [*wanted.style_layers.values(), *wanted.content_layers.values()]
    criterion = nn.MSELoss()

    def gram(features: Tensor) -> Tensor:
        batch, channels, height, width = features.size()
        flat = features.view(batch, channels, height * width)
        return torch.bmm(flat, flat.transpose(1, 2)).div_(height * width)

    def extract(picture: Tensor) -> dict[int, Tensor]:
        maps: dict[int, Tensor] = {}
        hooks = [
            vgg[layer].register_forward_hook(lambda _, __, out, at=layer: maps.update({at: out}))
            for layer in layers
        ]
        vgg(preprocess(picture, "torchvision"))
        for hook in hooks:
            hook.remove()
        return maps

    began = now(content.device)
    textures, shapes = extract(style), extract(content)
    goals = [gram(textures[layer]).detach() for layer in STYLE_LAYERS]
    goals.append(shapes[CONTENT_LAYER].detach())
    canvas = content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([canvas])
    done, seen = 0, []

    def closure() -> Tensor:
        nonlocal done
        if clamp:
            with torch.no_grad():
                canvas.clamp_(0, 1)
        optimizer.zero_grad()
        maps = extract(canvas)
        outputs = [gram(maps[layer]) for layer in STYLE_LAYERS] + [maps[CONTENT_LAYER]]
        terms = zip(weights, outputs, goals, strict=True)
        loss = torch.stack([w * criterion(out, goal) for w, out, goal in terms]).sum()
        loss.backward()
        done += 1
        return loss

    while done < evaluations:
        optimizer.step(closure)
        seen.append((now(content.device) - began, canvas.detach().clone()))
    return seen


class Watcher(Checkpointer):
    """Keeps canvases as the painter leaves them, and when."""

    def __init__(self, began: float) -> None:
        self.began, self.seen = began, Seen()

    def save(
        self, picture: int, evaluations: int, state: dict[str, Tensor], finished: bool
    ) -> None:
        """Take the latest."""
        self.seen.append((now(state["canvas"].device) - self.began, state["canvas"].clone()))


def ours(content: Tensor, style: Tensor, vgg: nn.Sequential, wanted: StylizeSettings) -> Seen:
    """The stylize stage's function: canvases, and the seconds that each took."""
    watcher = Watcher(now(content.device))
    # Random weights are calibrated once more here, which changes nothing.
    list(
        transfer_style([content], style, wanted, vgg, content.device, lambda iterate: None, watcher)
    )
    return watcher.seen


def judged(
    canvas: Tensor, content: Tensor, style: Tensor, vgg: nn.Sequential, wanted: StylizeSettings
) -> float:
    """The chapter's sum in float32 at full size."""
    with torch.no_grad():
        goal = build_targets(content, [Style((style,))], wanted, vgg)
        eye = FeatureObjective(vgg, wanted, *canvas.shape[2:])
        return float(weighted_sum(eye.losses(canvas, goal), wanted)[0])


def least_seconds(
    vgg: nn.Sequential, wanted: StylizeSettings, rates: dict[str, float], bf16: bool
) -> float:
    """What the convolutions of our evaluations take at the hardware's rates.

    Forward and back each convolution multiplies once, and its maps pass through memory once.
    """
    rate, width = (rates["bf16"], 2) if bf16 else (rates["fp32"], 4)
    seconds, side = 0.0, wanted.image_size
    for layer in vgg[: max(STYLE_LAYERS) + 1]:
        if isinstance(layer, nn.Conv2d):
            # Of 3 x 3 places for each pixel, less those in the padding.
            operations = 2 * layer.in_channels * layer.out_channels * (3 * side - 2) ** 2
            moved = width * (layer.in_channels + layer.out_channels) * side**2
            seconds += 2 * max(operations / rate, moved / rates["copy"])
        elif isinstance(layer, nn.MaxPool2d):
            side //= 2
    return seconds * wanted.iterations


def network(weights: str, style: Tensor) -> nn.Sequential:
    """All of VGG19's features, as the chapter passes; what the losses do not see may be random."""
    vgg = build_vgg19("random", "max", 1, 36)
    if weights != "random":
        learned = build_vgg19(weights, "max", 1, max(STYLE_LAYERS))
        vgg = nn.Sequential(*learned, *vgg[len(learned) :])
    vgg = vgg.to(style.device)
    return calibrate(vgg, preprocess(style, "torchvision")) if weights == "random" else vgg


def arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--pixels", type=int, default=0, help="a side; 256, or 512 with CUDA")
    parser.add_argument("--evaluations", type=int, default=500, help="of the reference")
    parser.add_argument("--iterations", type=int, default=OURS["iterations"], help="of ours")
    parser.add_argument("--rounds", type=int, default=3, help="of both, after a short one")
    parser.add_argument("--limit-side", type=int, default=0, help="of the multiplied matrices")
    parser.add_argument("--saved", action="store_true", help="judge what is saved")
    parser.add_argument("--clamp", action="store_true", help="cut the reference's canvas")
    parser.add_argument("--weights", default="random", help="a file of VGG19's weights")
    parser.add_argument("--content", default="", help="a picture")
    parser.add_argument("--style", default="", help="a picture")
    parser.add_argument("--save", type=Path, help="a folder for both paintings")
    return parser.parse_args()


def ratio_at_equal_loss(curves: dict[str, list[tuple[float, float]]]) -> float | None:
    """Seconds of the reference to its least loss, in ours to the same; ``None``: ours never was."""
    took, least = min(curves["reference"], key=lambda point: point[1])
    there = [seconds for seconds, loss in curves["ours"] if loss <= least]
    return took / there[0] if there else None


def rounded(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """To a hundredth of a second, and as many places of the loss as differ."""
    return [(round(seconds, 2), round(loss, 5)) for seconds, loss in curve]


def main() -> None:
    """Paint in turns, judge, print."""
    asked = arguments()
    device = choose_device(asked.device)
    pixels = asked.pixels or PIXELS.get(device.type, 256)
    wanted = settings(pixels, asked.weights, clamp_to_range=asked.saved or asked.clamp)
    wanted = wanted.model_copy(update={"iterations": asked.iterations})
    random = np.random.default_rng(1)
    content = square(asked.content, lambda: random_portrait(pixels, pixels, random), pixels)
    style = square(asked.style, lambda: night_sky_image(2 * pixels, 1), pixels)
    content, style = content.to(device), style.to(device)
    vgg = network(asked.weights, style)
    runs = {
        "reference": lambda: reference(content, style, vgg, wanted, asked.evaluations, asked.clamp),
        "ours": lambda: ours(content, style, vgg, wanted),
    }
    reference(content, style, vgg, wanted, 3, asked.clamp)
    ours(content, style, vgg, wanted.model_copy(update={"iterations": 3}))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    curves: dict[str, list[tuple[float, float]]] = {}
    ratios = []
    for _ in range(asked.rounds):
        for name, run in runs.items():
            seen = run()
            seconds[name].append(seen[-1][0])
            shown = [(took, c.clamp(0, 1) if asked.saved else c) for took, c in seen]
            losses = [judged(canvas, content, style, vgg, wanted) for _, canvas in shown]
            curves[name] = [(took, x) for (took, _), x in zip(seen, losses, strict=True)]
            print(f"{name:<12}{seen[-1][0]:8.2f} s to {losses[-1]:.5f}", flush=True)
            if asked.save:
                save_png(to_uint8(seen[-1][1])[0], asked.save / f"{name}.png")
        ratios.append(ratio_at_equal_loss(curves))
    rates = limits(device, asked.limit_side)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    least = least_seconds(vgg, wanted, rates, native_bf16(device))
    result = {
        "name": "style",
        "reference": round(medians["reference"], 2),
        "ours": round(medians["ours"], 2),
        "ratio": None if None in ratios else round(statistics.median(filter(None, ratios)), 2),
        "limit_share": round(least / medians["ours"], 3),
        "loss_reference": curves["reference"][-1][1],
        "loss_ours": curves["ours"][-1][1],
        **{f"curve_{name}": rounded(curve) for name, curve in curves.items()},
        "seconds_reference": [round(value, 2) for value in seconds["reference"]],
        "seconds_ours": [round(value, 2) for value in seconds["ours"]],
        "pixels": pixels,
        "device": str(device),
        **{f"limit_{name}_gigas": round(rate / 1e9, 1) for name, rate in rates.items()},
    }
    show(result, asked.json)


if __name__ == "__main__":
    main()
