"""The GPU benchmark's parts at a tiny size on a CPU."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GPU_ONLY = {"syncs", "kernels", "memory", "compiled"}


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TINY = True
    return module


@pytest.mark.parametrize("kind", ["recorded", "eager"])
def test_training_rates_are_positive(gpu: ModuleType, kind: str) -> None:
    rate = gpu.measure_rate(*gpu.make_trainer(cuda_graphs=kind == "recorded"), epochs=1)
    assert rate["steps_per_epoch"] == 3
    assert rate["images_per_second"] >= rate["images_per_second_with_epoch_ends"] > 0
    assert rate["ms_per_step"] == pytest.approx(8e3 / rate["images_per_second"], rel=0.01)
    assert rate["warnings"] == []


def test_resumed_and_eager_trainings_are_bit_exact_on_a_cpu(gpu: ModuleType) -> None:
    differences = gpu.resume()
    assert set(differences) == {"deterministic=False", "deterministic=True"}
    for kinds in differences.values():
        assert kinds == {"whole again": 0.0, "resumed": 0.0, "eager": 0.0}


def test_a_device_equals_itself(gpu: ModuleType) -> None:
    answer = gpu.numbers()
    assert (answer["features_relative"], answer["generated_levels"]) == (0.0, 0)
    assert answer["kid"][0] == answer["kid"][1]


def test_style_transfer_lowers_the_loss(gpu: ModuleType) -> None:
    answer = gpu.time_transfer({"iterations": 4})
    assert answer["evaluations"] == 4
    assert 0 < answer["loss"][1] < answer["loss"][0]
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in answer["seconds"])


def test_variants_name_what_the_device_lacks(gpu: ModuleType) -> None:
    answer = gpu.variants()
    assert "only NVIDIA's GPUs since Ampere" in answer["tf32"]
    assert answer["penalties"]["images_per_second"] > 0


@pytest.mark.parametrize("name", sorted(GPU_ONLY))
def test_parts_for_gpus_are_skipped_on_a_cpu(gpu: ModuleType, name: str) -> None:
    assert getattr(gpu, name)() == {"skipped": "needs a GPU"}


def test_results_are_kept_after_every_part(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "gpu.json"
    command = ["gpu.py", "--tiny", "--parts", "machine,syncs", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    gpu.main()
    results = json.loads(out.read_text("utf-8"))
    assert list(results) == ["machine", "syncs"]
    assert results["machine"]["answer"]["missing"] == []
    assert results["syncs"]["answer"] == {"skipped": "needs a GPU"}
    assert "predicted: no wait" in capsys.readouterr().out


def test_every_part_has_a_limit_and_a_function(gpu: ModuleType) -> None:
    assert all(callable(getattr(gpu, name)) for name in gpu.LIMITS)
    assert set(gpu.PREDICTIONS) <= set(gpu.LIMITS)
