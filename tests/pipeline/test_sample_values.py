"""Pipeline with the settings of the preset ``sample``, which other tests replace."""

import json
import math

import pytest

from atelier.core.presets import preset_values

from ..support.project import ROOT, TINY, Project

# Settings that keep the values of the other tests, because they make the pipeline fast.
SIZES = {
    *("epochs", "batch_size", "latent_size", "generator_channels", "discriminator_channels"),
    *("samples", "kid_every_epochs"),
}


@pytest.mark.slow
def test_pipeline_runs_with_the_training_and_evaluation_of_the_sample(fresh: Project) -> None:
    sample = preset_values("sample", ROOT / "presets")
    replaced = [key.split(".") for key in TINY if key.startswith(("train.", "evaluate."))]
    settings = {f"{s}.{key}": sample[s][key] for s, key in replaced if key not in SIZES}
    fresh.set(**settings, **{"train.kid_every_epochs": 2, "train.kid_samples": 16})
    train = fresh.settings().train
    assert (train.loss, train.spectral_norm, train.discriminator_norm) == ("hinge", True, False)
    assert train.ema_decay > 0
    fresh.repro()
    metrics = json.loads((fresh.folder / "metrics/details/evaluate.json").read_text())
    assert metrics["measured_with"]["features"] == "vgg19_caffe"
    assert math.isfinite(metrics["kid"])
    quality = (fresh.folder / "plots/quality.csv").read_text().split()
    assert quality[-1].startswith("2,")
    assert math.isfinite(float(quality[-1].split(",")[1]))
