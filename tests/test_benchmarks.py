"""Benchmarks with tiny options: their output has the documented form."""

import json
import math
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.data.dataset import save_images
from atelier.gan.networks import Architecture, build_networks
from atelier.gan.serialization import save_network
from atelier.sample_faces.portrait import random_portrait
from atelier.style.vgg import build_vgg19

from .support.modules import load_module
from .support.project import clone

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
HELPERS = {"command", "gpu"}  # gpu has tests of its own
COMPARED = "name reference ours ratio limit_share"
RATES = "limit_fp32_gigas limit_bf16_gigas limit_copy_gigas"
SLIDERS = [
    f"slider_{way}{state}" for way in ("http", "browser") for state in ("", "_during_a_painting")
]
DAMAGES = {
    *(f"blur of {size} pixels" for size in (0.35, 0.7, 1.4)),
    *(f"noise of {size}" for size in (5, 10, 20)),
    *(f"the brightest {share}%" for share in (75, 50, 25)),
    *(f"{count} faces, repeated" for count in (100, 30, 10)),
    "half copied",
}


@dataclass(frozen=True)
class Case:
    """Tiny options of a benchmark, and the form of its output.

    Attributes:
        options: "{folder}" is the folder for ``files``.
        keys: of every JSON object.
        positive: keys whose numbers must be above 0.
        files: writes the files that the options name.
        objects: JSON objects printed.
        slow: takes more than a few seconds.
    """

    options: str
    keys: set[str]
    positive: set[str]
    files: Callable[[Path], None] = lambda folder: None
    objects: int = 1
    slow: bool = True


def _generator(folder: Path, image_size: int, channels: int) -> None:
    """Write an untrained generator."""
    values = preset_values("sample", ROOT / "presets")["train"]
    small = {"generator_channels": 4, "discriminator_channels": 4, "latent_size": 8}
    arch = Architecture.from_settings(TrainSettings(**values | small), image_size, channels)
    save_network(build_networks(arch, 1)[0], arch, folder / "generator.safetensors")


def _digits(folder: Path) -> None:
    """Write four images of each of ten classes, and a generator."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 28, 28, 1), np.uint8)
    names = [f"{number % 10}/{number:03d}" for number in range(40)]
    save_images(folder / "images.npz", [pixels.tobytes()], pixels.shape, names)
    _generator(folder, 28, 1)


def _faces(folder: Path) -> None:
    """Write a zip of drawn faces."""
    rng = np.random.default_rng(1)
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for number in range(80):
            with archive.open(f"faces/{number:03d}.png", "w") as file:
                Image.fromarray(random_portrait(16, 16, rng)).save(file, "PNG")


def _converted(folder: Path) -> None:
    """Write a training and a validation set of noise."""
    for name, count in (("images", 64), ("validation", 32)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 16, 16, 3), np.uint8)
        names = [f"{number:03d}" for number in range(count)]
        save_images(folder / f"{name}.npz", [pixels.tobytes()], pixels.shape, names)


def _vgg19(folder: Path) -> None:
    """Write random weights of VGG19."""
    weights = build_vgg19("random", "max", 1, 25).state_dict()
    save_file(
        {f"features.{name}": value for name, value in weights.items()}, folder / "vgg19.safetensors"
    )


def _project(folder: Path) -> None:
    """Write a project with an untrained generator and 40 training images."""
    project = clone(folder / "project", **{"convert.image_size": 64})
    (project.folder / "models").mkdir()
    _generator(project.folder / "models", 64, 3)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 64, 64, 3), np.uint8)
    names = [f"{number:03d}" for number in range(40)]
    save_images(project.folder / "data/images.npz", [pixels.tobytes()], pixels.shape, names)


AVERAGES = ["no average", "ema_decay 0.9"] + [
    f"{kind} {width}" for kind in ("power", "post-hoc") for width in (0.05, 0.1, 0.2)
]
CASES = {
    "averages": Case(
        "{folder}/faces.zip --preset best32 --augment cutout --seeds 1 --steps 3 --decays 0.9"
        " --widths 0.2 --every 2 --images 64 --validation 16 --samples 16 --json",
        {"name", "seed", "augment", "steps", "features", "error for real images"}
        | {f"{name}{statistics}" for name in AVERAGES for statistics in ("", ", recomputed")},
        {"seed", "steps", "error for real images"},
        _faces,
    ),
    "compare_style": Case(
        "{folder}/sheet.png --generator {folder}/generator.safetensors --faces 1 --pixels 32"
        " --evaluations 3 --iterations 2 --json",
        {"name", "rows", "height", "width", "file"},
        {"rows", "height", "width"},
        lambda folder: _generator(folder, 32, 3),
    ),
    "convert": Case(
        "--pictures 6 --height 96 --rounds 3 --json",
        {*COMPARED.split(), "unit", "limit", "cores"}
        | {"kilobytes_a_picture", "mean_difference_of_pixels"},
        {*COMPARED.split(), "limit", "cores"} - {"name"},
        slow=False,
    ),
    "convert --memory": Case(
        "--memory 20 --json",
        {*COMPARED.split(), "pictures", "peak_megabytes_before", "pictures_a_second"},
        {"ours", "pictures", "peak_megabytes_before", "pictures_a_second"},
        slow=False,
    ),
    "decoding": Case(
        "--count 2 --size 16 --json",
        {"name", "unit", "size", "cases", "mean_crop", "mean_stretch", "mean_pad", "lowest"},
        {"size", "cases", "mean_crop", "mean_stretch", "mean_pad", "lowest"},
        slow=False,
    ),
    "digits": Case(
        "--images {folder}/images.npz --generator {folder}/generator.safetensors"
        " --generated 16 --held-out 10 --json",
        {"name", "classifier_accuracy", "real_share_over_0.9", "generated_per_digit"}
        | {"share_over_0.9"},
        set(),
        _digits,
        slow=True,
    ),
    "estimate": Case(
        "--images 400 --epochs 16 --json",
        {*COMPARED.split(), "measurement"},
        {"reference", "ours", "ratio", "measurement"},
    ),
    "extractors": Case(
        "--side 32 --count 8 --json",
        {"name", "side", "milliseconds a picture", "real", "memorised, real"}
        | {"memorised, half copied", *DAMAGES},
        {"side", "milliseconds a picture"},
        objects=4,
    ),
    "faces": Case(
        "--photographs 2 --height 240 --rounds 1 --sheet {folder}/rows.png --json",
        {*COMPARED.split(), "unit", "cores", "opencv", "megapixels", "faces", "found"}
        | {"processor_ms", "processor_ms_reference"},
        {"reference", "ours", "ratio", "megapixels", "faces"},
    ),
    "fine_tuning": Case(
        "--archive {folder}/faces.zip --first 48 --few 16 --reference 16 --first-steps 2 --steps 2"
        " --every 1 --samples 16 --json",
        {"name", "first", "few", "reference", "steps", "kid"},
        {"first", "few", "reference"},
        _faces,
    ),
    "garbage": Case(
        "--commits 3 --runs 4 --rounds 1 --json",
        {"name", "seconds", "removed", "kept"},
        {"seconds", "removed", "kept"},
    ),
    "few_images": Case(
        "{folder}/faces.zip --presets few64 --images 100 --reference 40 --seeds 1 --seconds 1"
        " --sheets {folder} --json",
        {"name", "seed", "seconds", "steps", "epochs", "kid, random", "kid, vgg19_caffe"}
        | {"nearest face", "nearest is of the mirror image", "nearest face of other real faces"},
        {"seed", "steps", "epochs"},
        _faces,
    ),
    "explorer": Case(
        "--project {folder}/project --requests 3 --json",
        {"name", "seconds_to_start", "ends_of_10_sliders", "16_neighbors", "33_frames", "search"}
        | {"gif_of_46_frames", "first_search", "seconds_of_a_painting", *SLIDERS},
        {"seconds_to_start", "16_neighbors", "search", "seconds_of_a_painting", *SLIDERS},
        _project,
    ),
    "inversion": Case(
        "--generator {folder}/generator.safetensors --images 1 --starts 1 --json",
        {"name", "images", "found", "lowest_psnr", "median_psnr"}
        | {"median_seconds_of_one_core", "longest_seconds_of_one_core"}
        | {"median_relative_error_of_latent"},
        {"images", "lowest_psnr", "median_psnr"},
        lambda folder: _generator(folder, 16, 3),
    ),
    "live": Case(
        "--epochs 1 --pictures 64 --side 32 --rounds 1 --json",
        {*COMPARED.split(), "pairs", "elapsed_without", "elapsed_with", "share_of_live_calls"}
        | {"steps"},
        {"reference", "ours", "ratio", "share_of_live_calls", "steps"},
    ),
    "real_kid": Case(
        "--images 40 --side 16 --counts 4 --repetitions 3 --features random --json",
        {"features", "images", "kid_error", "reference", "reference_error", "reference_deviation"}
        | {"training", "training_error", "training_deviation"},
        {"images", "kid_error", "reference_error", "reference_deviation"},
        slow=True,
    ),
    "pruning": Case(
        "{folder} --trials 6 --epochs 2 --orders 2 --json",
        {"name", "trials", "steps", "saved", "saved_lowest", "saved_median", "best"}
        | {"best_pruned", "orders_with_the_same_best"},
        {"trials", "steps"},
        _converted,
    ),
    "quality": Case(
        "{folder}/faces.zip --json --seeds 1 --presets",
        {*COMPARED.split(), "seeds", "presets"},
        set(),
        _faces,
    ),
    "startup": Case(
        "--repeats 1 --json",
        {"name", "machine", "tiny chain, store made anew", "tiny chain, again", "nothing to do"}
        | {f"imports, {name}" for name in ("python alone", "torch", "mlflow")}
        | {f"imports, {path.stem}" for path in (ROOT / "stages").glob("*.py")},
        {"tiny chain, store made anew", "tiny chain, again", "nothing to do"},
    ),
    "style": Case(
        "--pixels 32 --evaluations 3 --iterations 2 --rounds 1 --limit-side 256 --json",
        {*COMPARED.split(), "loss_reference", "loss_ours", "curve_reference", "curve_ours"}
        | {"seconds_reference", "seconds_ours", "pixels", "device", *RATES.split()},
        {"reference", "ours", "limit_share", "loss_reference", "loss_ours", *RATES.split()},
    ),
    "stylization": Case(
        "{folder}/vgg19.safetensors --faces 1 --size 32 --set iterations=2 pyramid_levels=1 --json",
        {"vgg19, painted", "vgg19, unpainted", "vgg19, color cast"},
        set(),
        _vgg19,
    ),
    "tracking": Case(
        "--epochs 2 --pictures 64 --rounds 1 --starts 1 --json",
        {*COMPARED.split(), "first_epoch_without", "first_epoch_with", "start_without"}
        | {"share_of_training_thread", "worker_seconds_in_first_epoch"}
        | {"worker_share_of_cores", "start_with"},
        {"reference", "ours", "ratio", "start_without", "start_with"},
    ),
    "train": Case(
        "--side 32 --batch 4 --steps 2 --rounds 1 --limit-side 256 --json",
        {*COMPARED.split(), "precision", *RATES.split()},
        {"reference", "ours", "ratio", "limit_share", *RATES.split()},
    ),
}
# Argument of the benchmark `quality`: a preset and its tiny settings.
TINY_PRESET = (
    "sample convert.image_size=16 train.epochs=1 train.batch_size=16 train.generator_channels=4"
    " train.discriminator_channels=4 train.fixed_samples=4 train.kid_every_epochs=0"
    " evaluate.samples=16 evaluate.epochs=1 runtime.device=cpu runtime.progress=false"
)


def _files() -> list[str]:
    return sorted({path.stem for path in BENCHMARKS.glob("*.py")} - HELPERS)


def _numbers(value: Any) -> Iterator[float]:
    """Yield all numbers of a JSON value."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_every_benchmark_has_a_case() -> None:
    assert {name.split()[0] for name in CASES} == set(_files())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * CASES[name].slow) for name in CASES],
)
def test_benchmark_prints_its_numbers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.files(tmp_path)
    options = [word.format(folder=tmp_path) for word in case.options.split()]
    if name == "quality":
        options.append(TINY_PRESET)
    program = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name.split()[0]}.py", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,  # only for a benchmark that hangs; a busy machine takes minutes
        check=False,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    lines = [line for line in program.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == case.objects
    for line in lines:
        result = json.loads(line)
        assert result.keys() == case.keys
        assert all(map(math.isfinite, _numbers(result)))
        assert all(number > 0 for key in case.positive for number in _numbers(result[key]))


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a benchmark with its folder on the path."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return load_module(BENCHMARKS / f"{name}.py", f"benchmark_{name}")

    return load


def _power_function(gamma: float, steps: int) -> Any:
    """Return the weights of steps in an average that ends with the last of them."""
    weights = np.arange(1.0, steps + 1) ** gamma
    return weights / weights.sum()


def test_power_average_has_its_width(benchmark_module: Callable[[str], ModuleType]) -> None:
    averages = benchmark_module("averages")
    layer = nn.Linear(1, 1, bias=False)
    average = averages.power_average(0.1, layer)
    values = np.random.default_rng(1).normal(size=1000).cumsum()
    for value in values:
        nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
    weights, steps = _power_function(averages.exponent(0.1), 1000), np.arange(1000)
    width = np.sqrt(weights @ (steps - weights @ steps) ** 2)
    assert width == pytest.approx(100, rel=0.01)
    assert average.module.weight.item() == pytest.approx(weights @ values, abs=0.02 * values.std())


@pytest.mark.parametrize("width", [0.03, 0.075, 0.15])
def test_snapshots_approximate_averages_of_other_widths(
    width: float, benchmark_module: Callable[[str], ModuleType]
) -> None:
    averages = benchmark_module("averages")
    values = np.random.default_rng(1).normal(size=1000).cumsum()

    def average(relative_width: float, steps: int) -> float:
        return float(_power_function(averages.exponent(relative_width), steps) @ values[:steps])

    ends = [end for end in range(50, 1001, 50) for _ in range(2)]
    widths = [0.05, 0.1] * 20
    snapshots = [average(each, end) for each, end in zip(widths, ends, strict=True)]
    approximate = averages.post_hoc_weights(ends, widths, width) @ snapshots
    assert approximate == pytest.approx(average(width, 1000), abs=0.001 * values.std())


def test_share_above_its_limit_is_an_error(
    benchmark_module: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    command = benchmark_module("command")
    with pytest.raises(
        SystemExit, match=r"^ERROR: limit_share is 147%, but nothing is faster"
    ) as caught:
        command.show({"name": "train", "limit_share": 1.47}, as_json=True)
    assert isinstance(caught.value.code, str)  # Python prints it and exits with status 1
    assert "{" not in capsys.readouterr().out


@pytest.mark.parametrize("share", [None, 0.0, 1.0])
def test_share_up_to_its_limit_is_printed(
    share: float | None,
    benchmark_module: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    benchmark_module("command").show({"limit_share": share}, as_json=True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"limit_share": share}


@pytest.mark.parametrize(
    ("layer", "images"),
    [
        (nn.Conv2d(3, 5, 4, 2, 1), (2, 3, 8, 8)),
        (nn.Conv2d(3, 5, 4, 2, 0), (2, 3, 9, 8)),
        (nn.Conv2d(3, 5, 3, 1, 1), (2, 3, 5, 7)),
        (nn.ConvTranspose2d(3, 5, 4, 2, 1), (2, 3, 4, 4)),
        (nn.ConvTranspose2d(3, 5, 4, 1, 0), (2, 3, 1, 1)),
        (nn.ConvTranspose2d(3, 5, 3, 2, 1), (2, 3, 4, 4)),
    ],
)
def test_training_counts_no_products_with_padding(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    images: tuple[int, ...],
    benchmark_module: Callable[[str], ModuleType],
) -> None:
    """With all values 1, the sum of the output is the number of products."""
    train = benchmark_module("train")
    ones = torch.ones(images, requires_grad=True)
    nn.init.ones_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    aten = torch.ops.aten
    formulas = {
        aten.convolution: train.forward_work,
        aten.convolution_backward: train.backward_work,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        output = layer(ones).sum()
        forward = counter.get_total_flops()
        output.backward()
    assert forward == 2 * output.item()
    assert counter.get_total_flops() == 3 * forward  # gradients of images and weights
