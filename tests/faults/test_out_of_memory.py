"""Too little memory, a missing GPU and read-only folders are one error sentence each."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..support.project import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
OUTPUTS = {
    "download": ["data/raw"],
    "convert": ["data/images.npz", "metrics/convert.json", "metrics/details/convert.json"],
    "train": [
        "models",
        "samples",
        "plots/losses.csv",
        "metrics/train.json",
        "metrics/details/train.json",
    ],
    "evaluate": [
        "plots/kid.csv",
        "plots/swd.csv",
        "metrics/evaluate.json",
        "metrics/details/evaluate.json",
    ],
    "render": ["renders"],
    "stylize": [
        "styled",
        "metrics/stylize.json",
        "metrics/details/stylize.json",
        "plots/style_losses.csv",
    ],
}


def error_sentence(output: str) -> str:
    """Return the only error of a stage; DVC adds another one."""
    assert "Traceback" not in output, output
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    errors = [line for line in errors if not line.startswith("ERROR: failed to reproduce")]
    assert len(errors) == 1, output
    assert errors[0].endswith(".")
    return errors[0]


@pytest.mark.parametrize(
    ("stage", "changes", "setting"),
    [
        ("train", {"train.generator_channels": 4096}, "train.batch_size"),
        ("train", {"train.fixed_samples": 10**10}, "train.batch_size"),
        ("evaluate", {"evaluate.samples": 10**9}, "evaluate.samples"),
    ],
)
def test_too_little_memory_names_the_setting_to_reduce(
    ready: Project, stage: str, changes: dict[str, Any], setting: str
) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**changes)
    # Address space in KiB: enough for the program, too little for its arrays.
    output = ready.run(
        "sh", "-c", f"ulimit -v {6 * 2**20}; dvc repro --single-item --force {stage}", ok=False
    )
    assert f"the memory is too small for {stage}; make {setting}" in error_sentence(output)
    assert ready.bytes(*OUTPUTS[stage]) == before


@pytest.mark.slow
def test_too_large_stylized_image_names_a_size_that_fits(ready: Project) -> None:
    before = ready.bytes(*OUTPUTS["stylize"])
    large = {"stylize.image_size": 2048, "stylize.memory_gb": 0.0, "stylize.pyramid_levels": 1}
    ready.set(**large)
    limited = f"ulimit -v {6 * 2**20}; dvc repro --single-item --force stylize"
    sentence = error_sentence(ready.run("sh", "-c", limited, ok=False))
    match = re.search(
        r"too small for a stylized image of 2048 x 2048 .*image_size of (\d+) fits", sentence
    )
    assert match, sentence
    assert ready.bytes(*OUTPUTS["stylize"]) == before
    ready.set(**{"stylize.image_size": int(match[1])})
    ready.run("sh", "-c", limited)


def test_too_large_batch_names_a_size_that_fits(ready: Project) -> None:
    large = {
        "convert.image_size": 256,
        "download.sample.count": 388,  # at least 256 of them are training images
        "train.batch_size": 256,
        "train.generator_channels": 64,
        "train.discriminator_channels": 64,
        "train.steps": 2,  # the second one with the optimizers' moments
    }
    ready.set(**large)
    ready.run("dvc", "repro", "convert")
    # Batches of 256 need 10.9 GiB of address space, of 128 7.8 GiB. Close to the limit, oneDNN
    # calls a kernel for which it found no memory, and the process ends without an exception.
    limited = f"ulimit -v {int(9.5 * 2**20)}; dvc repro --single-item train"
    sentence = error_sentence(ready.run("sh", "-c", limited, ok=False))
    match = re.search(
        r"a batch of 256 images does not fit.*set train.batch_size to (\d+)", sentence
    )
    assert match, sentence
    ready.set(**{"train.batch_size": int(match[1])})
    ready.run("sh", "-c", limited)


@pytest.mark.parametrize("stage", ["train", "evaluate", "stylize"])
def test_missing_gpu_is_named(ready: Project, stage: str) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**{"runtime.device": "cuda:99"})
    output = ready.run("dvc", "repro", "--single-item", "--force", stage, ok=False)
    assert "runtime.device is cuda:99, but torch finds" in error_sentence(output)
    assert ready.bytes(*OUTPUTS[stage]) == before


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        ("download", "data"),
        ("convert", "data"),
        ("convert", "metrics"),
        ("train", "plots"),
        ("evaluate", "metrics"),
        ("stylize", "plots"),
        ("train", "."),
        ("render", "."),
    ],
)
def test_read_only_folder_is_named(
    ready: Project, freeze: Callable[[Path], None], stage: str, folder: str
) -> None:
    """Run the stage without DVC, which would fail earlier, when it removes outputs."""
    before = ready.bytes(*OUTPUTS[stage])
    freeze(ready.folder / folder)
    output = ready.run("python", f"stages/{stage}.py", ok=False, PYTHONPATH="src")
    # The first check of a stage finds the root's; report.html is an output in it.
    reason = "cannot be written" if folder == "." else "Read-only file system"
    assert reason in error_sentence(output)
    assert ready.bytes(*OUTPUTS[stage]) == before


def test_dvc_keeps_old_outputs_in_a_read_only_folder(
    ready: Project, freeze: Callable[[Path], None]
) -> None:
    before = ready.bytes(*OUTPUTS["render"])
    freeze(ready.folder / "renders")
    output = ready.run("dvc", "repro", "--single-item", "--force", "render", ok=False)
    assert "Traceback" not in output
    assert "Read-only file system" in output
    assert ready.bytes(*OUTPUTS["render"]) == before


@pytest.mark.parametrize(("stage", "folder"), [("evaluate", "plots"), ("train", ".atelier")])
def test_file_at_the_path_of_a_folder_is_named(ready: Project, stage: str, folder: str) -> None:
    os.rename(ready.folder / folder, ready.folder / "moved")
    (ready.folder / folder).write_text("mine")
    output = ready.run("python", f"stages/{stage}.py", ok=False, PYTHONPATH="src")
    assert f"{folder} cannot be read or written" in error_sentence(output)
    assert (ready.folder / folder).read_text() == "mine"
