"""Speed of style transfer compared with the loop of a tutorial, at equal loss.

The reference is a plain loop: float32, one image size, hooks and a pass through all of VGG19 for
every loss, L-BFGS of torch with its defaults, 500 evaluations. It is compared with the function
of the stylize stage, with the settings of OURS. Both minimize the same loss for square images:
style at layers 1, 6, 11, 20 and 25, content at 21, and with trained weights the tutorial's loss
weights. Times start with images and network in memory, and end with the stylized image. Losses
are computed by one float32 evaluation. `ratio` compares the seconds to the reference's lowest
loss.

The reference has no bounds: saving clips its colors, which increases its loss, more so after many
evaluations. With --saved, losses are those of clipped images, and Atelier optimizes within the
bounds as in the stage. With --clamp the reference clips before every evaluation, as PyTorch's
tutorial does.

The limit is the time of the convolutions at the rates of matrix products and memory that this
run measures; for each layer it is the longer of the two times.

Without files, the network has seeded random weights, and the images are drawn. With a file of
VGG19's weights (at least to conv4_4) and two images, the benchmark is about trained features.

Usage: python benchmarks/style.py [--json] [--pixels 256 (CUDA: 512)] [--evaluations 500]
[--iterations 220] [--rounds 3] [--saved] [--clamp] [--weights FILE]
[--content FILE --style FILE] [--save FOLDER] [--limit-side 2048 (CUDA: 8192)]
"""

import argparse
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from command import limits, now, show
from torch import Tensor, nn

from atelier.core.arrays import to_uint8
from atelier.core.device import choose_device, native_bf16
from atelier.core.presets import preset_values
from atelier.core.settings import StylizeSettings
from atelier.data.image_file import read_image
from atelier.figures.grid import save_png
from atelier.sample_faces.portrait import random_portrait
from atelier.style.checkpoint import TransferCheckpoints
from atelier.style.demo_styles import night_sky_image
from atelier.style.inputs import resize_to_tensor
from atelier.style.objective import FeatureObjective, Style, build_targets, weighted_sum
from atelier.style.transfer import TransferTask, transfer_style
from atelier.style.vgg import build_vgg19, calibrate, preprocess

ROOT = Path(__file__).resolve().parents[1]
STYLE_LAYERS = {1: 64, 6: 128, 11: 256, 20: 512, 25: 512}  # and their channels
CONTENT_LAYER = 21
LEARNED = ({layer: 1e3 / channels**2 for layer, channels in STYLE_LAYERS.items()}, 1.0)
# For random features, whose layers have outputs of unit scale. The weights are large, because
# the absolute tolerances of the reference's L-BFGS would otherwise stop it at once.
RANDOM = (dict.fromkeys(STYLE_LAYERS, 1e3), 150.0)
OURS = {"optimizer": "spectral_lbfgs", "iterations": 220, "precision": "auto"}
PIXELS = {"cuda": 512}


def style_settings(pixels: int, weights: str, clamp_to_range: bool) -> StylizeSettings:
    """Return the settings for Atelier: the tutorial's loss, and the optimizer of OURS."""
    style_weights, content_weight = RANDOM if weights == "random" else LEARNED
    gatys = preset_values("gatys", ROOT / "presets")["stylize"]
    changes = {
        "image_size": pixels,
        "memory_gb": 0.0,
        "preprocessing": "torchvision",
        "weights": "random" if weights == "random" else "imagenet",
        "style_layers": style_weights,
        "content_layers": {CONTENT_LAYER: content_weight},
        "init": "content",
        "clamp_to_range": clamp_to_range,
        **OURS,
    }
    return StylizeSettings.model_validate(gatys | changes)


def load_square(file: str, draw: Callable[[], np.ndarray], pixels: int) -> Tensor:
    """Return the center of an image file or a drawn image, float32 [1, 3, pixels, pixels]."""
    image = read_image(Path(file), "rgb", 80) if file else draw()
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return resize_to_tensor(
        np.ascontiguousarray(image[top : top + side, left : left + side]), pixels
    )


Steps = list[tuple[float, Tensor]]  # seconds since the start, and images


def reference(
    content: Tensor,
    style: Tensor,
    vgg: nn.Sequential,
    settings: StylizeSettings,
    evaluations: int,
    clamp: bool,
) -> Steps:
    """Run the tutorial's loop."""
    layers = [*STYLE_LAYERS, CONTENT_LAYER]
    weights = [*settings.style_layers.values(), *settings.content_layers.values()]
    criterion = nn.MSELoss()

    def gram(features: Tensor) -> Tensor:
        batch, channels, height, width = features.size()
        flat = features.view(batch, channels, height * width)
        return torch.bmm(flat, flat.transpose(1, 2)).div_(height * width)

    def extract(image: Tensor) -> dict[int, Tensor]:
        maps: dict[int, Tensor] = {}
        hooks = [
            vgg[layer].register_forward_hook(lambda _, __, out, at=layer: maps.update({at: out}))
            for layer in layers
        ]
        vgg(preprocess(image, "torchvision"))
        for hook in hooks:
            hook.remove()
        return maps

    start = now(content.device)
    style_maps, content_maps = extract(style), extract(content)
    targets = [gram(style_maps[layer]).detach() for layer in STYLE_LAYERS]
    targets.append(content_maps[CONTENT_LAYER].detach())
    image = content.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([image])
    done, steps = 0, []

    def closure() -> Tensor:
        nonlocal done
        if clamp:
            with torch.no_grad():
                image.clamp_(0, 1)
        optimizer.zero_grad()
        maps = extract(image)
        outputs = [gram(maps[layer]) for layer in STYLE_LAYERS] + [maps[CONTENT_LAYER]]
        terms = zip(weights, outputs, targets, strict=True)
        loss = torch.stack([w * criterion(out, target) for w, out, target in terms]).sum()
        loss.backward()
        done += 1
        return loss

    while done < evaluations:
        optimizer.step(closure)
        steps.append((now(content.device) - start, image.detach().clone()))
    return steps


class StepRecorder(TransferCheckpoints):
    """Records images and times at every checkpoint."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start, self.steps = start, Steps()

    def save(self, image: int, evaluations: int, state: dict[str, Tensor], finished: bool) -> None:
        """Record the current image and the time."""
        self.steps.append((now(state["canvas"].device) - self.start, state["canvas"].clone()))


def ours(content: Tensor, style: Tensor, vgg: nn.Sequential, settings: StylizeSettings) -> Steps:
    """Run the stylize stage's function."""
    recorder = StepRecorder(now(content.device))
    # Random weights are calibrated again here, which changes nothing.
    task = TransferTask(0, "content", content, Style((style,)))
    list(transfer_style([task], settings, vgg, checkpoints=recorder))
    return recorder.steps


def float32_loss(
    image: Tensor, content: Tensor, style: Tensor, vgg: nn.Sequential, settings: StylizeSettings
) -> float:
    """Return the loss of an image in float32."""
    with torch.no_grad():
        targets = build_targets(content, [Style((style,))], settings, vgg)
        objective = FeatureObjective(vgg, settings, *image.shape[2:])
        return float(weighted_sum(objective.losses(image, targets), settings)[0])


def least_seconds(
    vgg: nn.Sequential, settings: StylizeSettings, rates: dict[str, float], bf16: bool
) -> float:
    """Return the seconds of all convolutions at the rates of the hardware.

    The forward and the backward pass of a convolution each take one product, and transfer its
    maps once.
    """
    rate, width = (rates["bf16"], 2) if bf16 else (rates["fp32"], 4)
    seconds, side = 0.0, settings.image_size
    for layer in vgg[: max(STYLE_LAYERS) + 1]:
        if isinstance(layer, nn.Conv2d):
            # 3 x 3 positions for each pixel, minus those in the padding.
            operations = 2 * layer.in_channels * layer.out_channels * (3 * side - 2) ** 2
            moved = width * (layer.in_channels + layer.out_channels) * side**2
            seconds += 2 * max(operations / rate, moved / rates["copy"])
        elif isinstance(layer, nn.MaxPool2d):
            side //= 2
    return seconds * settings.iterations


def build_network(weights: str, style: Tensor) -> nn.Sequential:
    """Build all layers of VGG19, as in the tutorial; layers without losses have random weights."""
    vgg = build_vgg19("random", "max", 1, 36)
    if weights != "random":
        trained = build_vgg19(weights, "max", 1, max(STYLE_LAYERS))
        vgg = nn.Sequential(*trained, *vgg[len(trained) :])
    vgg = vgg.to(style.device)
    return calibrate(vgg, preprocess(style, "torchvision")) if weights == "random" else vgg


def parse_options() -> argparse.Namespace:
    """Read the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--pixels", type=int, default=0, help="side of the images; 256, or 512 with CUDA"
    )
    parser.add_argument("--evaluations", type=int, default=500, help="of the reference")
    parser.add_argument("--iterations", type=int, default=OURS["iterations"], help="of Atelier")
    parser.add_argument("--rounds", type=int, default=3, help="of both, after a short one")
    parser.add_argument("--limit-side", type=int, default=0, help="of the multiplied matrices")
    parser.add_argument("--saved", action="store_true", help="compute losses of clipped images")
    parser.add_argument("--clamp", action="store_true", help="clip the reference's image")
    parser.add_argument("--weights", default="random", help="a file of VGG19's weights")
    parser.add_argument("--content", default="", help="an image")
    parser.add_argument("--style", default="", help="an image")
    parser.add_argument("--save", type=Path, help="a folder for both results")
    return parser.parse_args()


def ratio_at_equal_loss(curves: dict[str, list[tuple[float, float]]]) -> float | None:
    """Return the ratio of the times to the reference's lowest loss; ``None`` if not reached."""
    reference_seconds, lowest = min(curves["reference"], key=lambda point: point[1])
    reached = [seconds for seconds, loss in curves["ours"] if loss <= lowest]
    return reference_seconds / reached[0] if reached else None


def rounded(curve: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Round seconds to 2 decimals and losses to 5."""
    return [(round(seconds, 2), round(loss, 5)) for seconds, loss in curve]


def measure(
    runs: Mapping[str, Callable[[], Steps]],
    loss_of: Callable[[Tensor], float],
    options: argparse.Namespace,
) -> tuple[dict[str, list[float]], dict[str, list[tuple[float, float]]], list[float | None]]:
    """Run both methods in turn.

    Returns:
        The seconds of every run, the losses over time of the last runs, and the ratio at equal
        loss of every round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    curves: dict[str, list[tuple[float, float]]] = {}
    ratios = []
    for _ in range(options.rounds):
        for name, run in runs.items():
            steps = run()
            seconds[name].append(steps[-1][0])
            losses = [loss_of(image.clamp(0, 1) if options.saved else image) for _, image in steps]
            curves[name] = [(at, loss) for (at, _), loss in zip(steps, losses, strict=True)]
            print(f"{name:<12}{steps[-1][0]:8.2f} s to {losses[-1]:.5f}", flush=True)
            if options.save:
                save_png(
                    to_uint8(steps[-1][1], signed=False)[0].cpu().numpy(),
                    options.save / f"{name}.png",
                )
        ratios.append(ratio_at_equal_loss(curves))
    return seconds, curves, ratios


def main() -> None:
    """Measure both methods, and print times and losses."""
    options = parse_options()
    device = choose_device(options.device)
    pixels = options.pixels or PIXELS.get(device.type, 256)
    clamp = options.saved or options.clamp
    settings = style_settings(pixels, options.weights, clamp_to_range=clamp)
    settings = settings.model_copy(update={"iterations": options.iterations})
    rng = np.random.default_rng(1)
    content = load_square(options.content, lambda: random_portrait(pixels, pixels, rng), pixels)
    style = load_square(options.style, lambda: night_sky_image(2 * pixels, 1), pixels)
    content, style = content.to(device), style.to(device)
    vgg = build_network(options.weights, style)
    runs = {
        "reference": lambda: reference(
            content, style, vgg, settings, options.evaluations, options.clamp
        ),
        "ours": lambda: ours(content, style, vgg, settings),
    }
    reference(content, style, vgg, settings, 3, options.clamp)
    ours(content, style, vgg, settings.model_copy(update={"iterations": 3}))
    seconds, curves, ratios = measure(
        runs, lambda image: float32_loss(image, content, style, vgg, settings), options
    )
    rates = limits(device, options.limit_side)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    least = least_seconds(vgg, settings, rates, native_bf16(device))
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
    show(result, options.json)


if __name__ == "__main__":
    main()
