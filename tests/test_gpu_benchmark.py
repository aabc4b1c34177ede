"""Parts of the GPU benchmark with a tiny size on a CPU."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .support.modules import load_module

ROOT = Path(__file__).parents[1]
GPU_ONLY = {"syncs", "kernels", "memory"}


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    module = load_module(ROOT / "benchmarks" / "gpu.py", "gpu")
    module.TINY = True
    return module


@pytest.mark.parametrize("kind", ["captured", "eager"])
def test_training_rates_are_positive(gpu: ModuleType, kind: str) -> None:
    rate = gpu.measure_rate(*gpu.make_trainer(cuda_graphs=kind == "captured"), epochs=1)
    assert rate["steps_per_epoch"] == 3
    assert rate["images_per_second"] >= rate["images_per_second_with_epoch_ends"] > 0
    assert rate["ms_per_step"] == pytest.approx(8e3 / rate["images_per_second"], rel=0.01)
    assert rate["warnings"] == []


def test_resumed_and_eager_trainings_are_bit_exact_on_a_cpu(gpu: ModuleType) -> None:
    differences = gpu.resume()
    assert set(differences) == {"deterministic=False", "deterministic=True"}
    for kinds in differences.values():
        assert kinds == {"whole again": 0.0, "resumed": 0.0, "eager": 0.0}


def test_results_of_one_device_are_equal(gpu: ModuleType) -> None:
    results = gpu.numbers()
    assert (results["features_relative"], results["generated_levels"]) == (0.0, 0)
    assert results["kid"][0] == results["kid"][1]


def test_style_transfer_lowers_the_loss(gpu: ModuleType) -> None:
    results = gpu.time_transfer({"iterations": 8})
    assert results["evaluations"] == 8
    assert 0 < results["loss"][1] < results["loss"][0]
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in results["seconds"])


def test_variants_name_missing_features_of_the_device(gpu: ModuleType) -> None:
    results = gpu.variants()
    assert "only NVIDIA's GPUs since Ampere" in results["tf32"]
    assert results["penalties"]["images_per_second"] > 0


@pytest.mark.parametrize("name", sorted(GPU_ONLY))
def test_parts_for_gpus_are_skipped_on_a_cpu(gpu: ModuleType, name: str) -> None:
    assert getattr(gpu, name)() == {"skipped": "needs a GPU"}


def test_results_are_saved_after_every_part(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "gpu.json"
    command = ["gpu.py", "--tiny", "--parts", "machine,train,syncs", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    results = json.loads(out.read_text("utf-8"))
    assert list(results) == ["machine", "train", "syncs"]
    assert results["machine"]["answer"]["missing"] == []
    assert results["syncs"]["answer"] == {"skipped": "needs a GPU"}
    rate = results["train"]["answer"]["captured"]["images_per_second"]
    assert rate > 0
    *_, machine, train, syncs = capsys.readouterr().out.splitlines()
    assert machine.startswith("| machine |")
    assert train.endswith(f" | {gpu.PREDICTIONS['train']} | {rate:,} images/s captured |")
    assert syncs.endswith('| {"skipped": "needs a GPU"} |')


def test_part_that_takes_too_long_is_stopped_with_its_programs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gpu.LIMITS, "machine", 0.01)
    ((name, answer, _),) = gpu.run_parts(["machine"], 60, tiny=True)
    assert (name, answer) == ("machine", "stopped after 0 s")


def test_fused_steps_have_the_losses_of_plain_ones(gpu: ModuleType) -> None:
    results = gpu.fused()
    assert results["largest difference of the first losses"] < 0.02
    assert results["auto"]["images_per_second"] > 0


def test_every_part_has_a_limit_and_a_function(gpu: ModuleType) -> None:
    assert list(gpu.LIMITS)[-1] == "tests", "compilations may take the rest of the time"
    assert all(callable(getattr(gpu, name)) for name in gpu.LIMITS)
    assert set(gpu.PREDICTIONS) <= set(gpu.LIMITS)
