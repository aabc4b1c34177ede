"""No memory, no GPU and folders that cannot be written: one sentence, the old results stay."""

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
    "convert": ["data/images.npz", "metrics/convert.json"],
    "train": ["models", "samples", "plots/losses.csv", "metrics/train.json"],
    "evaluate": ["plots/kid.csv", "plots/swd.csv", "metrics/evaluate.json"],
    "render": ["renders"],
    "stylize": ["styled", "metrics/stylize.json", "plots/style_losses.csv"],
}


def sentence(told: str) -> str:
    """The one thing that a stage says, beside what dvc says of it."""
    assert "Traceback" not in told, told
    ours = [line for line in told.splitlines() if line.startswith("ERROR: ")]
    ours = [line for line in ours if not line.startswith("ERROR: failed to reproduce")]
    assert len(ours) == 1, told
    assert ours[0].endswith(".")
    return ours[0]


@pytest.mark.parametrize(
    ("stage", "changes", "smaller"),
    [
        ("train", {"train.generator_channels": 4096}, "train.batch_size"),
        ("train", {"train.fixed_samples": 10**10}, "train.batch_size"),
        ("evaluate", {"evaluate.samples": 10**9}, "evaluate.samples"),
    ],
)
def test_too_little_memory_names_the_setting(
    ready: Project, stage: str, changes: dict[str, Any], smaller: str
) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**changes)
    # The address space, in KiB: room for the program, and not for what it is asked.
    told = ready.run(
        "sh", "-c", f"ulimit -v {6 * 2**20}; dvc repro --single-item --force {stage}", ok=False
    )
    assert f"the memory is too small for {stage}; make {smaller}" in sentence(told)
    assert ready.bytes(*OUTPUTS[stage]) == before


@pytest.mark.slow
def test_a_painting_that_does_not_fit_says_which_would(ready: Project) -> None:
    """And the one that it says does fit."""
    before = ready.bytes(*OUTPUTS["stylize"])
    large = {"stylize.image_size": 2048, "stylize.memory_gb": 0.0, "stylize.pyramid_levels": 1}
    ready.set(**large)
    limited = f"ulimit -v {6 * 2**20}; dvc repro --single-item --force stylize"
    told = sentence(ready.run("sh", "-c", limited, ok=False))
    found = re.search(
        r"too small for a stylized image of 2048 x 2048 .*image_size of (\d+) fits", told
    )
    assert found, told
    assert ready.bytes(*OUTPUTS["stylize"]) == before
    ready.set(**{"stylize.image_size": int(found[1])})
    ready.run("sh", "-c", limited)


def test_a_batch_that_does_not_fit_says_which_would(ready: Project) -> None:
    """And the one that it says does fit."""
    large = {
        "convert.image_size": 256,
        "download.sample.count": 320,  # of which 256 are not held out
        "train.batch_size": 256,
        "train.generator_channels": 64,
        "train.discriminator_channels": 64,
        "train.epochs": 1,
    }
    ready.set(**large)
    ready.run("dvc", "repro", "convert")
    limited = f"ulimit -v {8 * 2**20}; dvc repro --single-item train"
    told = sentence(ready.run("sh", "-c", limited, ok=False))
    found = re.search(r"a batch of 256 pictures does not fit.*set train.batch_size to (\d+)", told)
    assert found, told
    ready.set(**{"train.batch_size": int(found[1])})
    ready.run("sh", "-c", limited)


@pytest.mark.parametrize("stage", ["train", "evaluate", "stylize"])
def test_a_gpu_that_is_not_there_is_named(ready: Project, stage: str) -> None:
    before = ready.bytes(*OUTPUTS[stage])
    ready.set(**{"runtime.device": "cuda:99"})
    told = ready.run("dvc", "repro", "--single-item", "--force", stage, ok=False)
    assert "runtime.device is cuda:99, but torch finds" in sentence(told)
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
def test_a_read_only_folder_is_named(
    ready: Project, freeze: Callable[[Path], None], stage: str, folder: str
) -> None:
    """The stage's own program: dvc alone would stop before it, at outputs that it cannot remove."""
    before = ready.bytes(*OUTPUTS[stage])
    freeze(ready.folder / folder)
    told = ready.run("python", f"stages/{stage}.py", ok=False, PYTHONPATH="src")
    assert "Read-only file system" in sentence(told)
    assert ready.bytes(*OUTPUTS[stage]) == before


def test_dvc_leaves_the_old_results_in_a_read_only_folder(
    ready: Project, freeze: Callable[[Path], None]
) -> None:
    before = ready.bytes(*OUTPUTS["render"])
    freeze(ready.folder / "renders")
    told = ready.run("dvc", "repro", "--single-item", "--force", "render", ok=False)
    assert "Traceback" not in told
    assert "Read-only file system" in told
    assert ready.bytes(*OUTPUTS["render"]) == before


@pytest.mark.parametrize(("stage", "folder"), [("evaluate", "plots"), ("train", ".atelier")])
def test_a_file_where_a_folder_is_needed_is_named(ready: Project, stage: str, folder: str) -> None:
    os.rename(ready.folder / folder, ready.folder / "moved")
    (ready.folder / folder).write_text("mine")
    told = ready.run("python", f"stages/{stage}.py", ok=False, PYTHONPATH="src")
    assert f"{folder} cannot be read or written" in sentence(told)
    assert (ready.folder / folder).read_text() == "mine"
