"""Pipeline with ``train.start_from``: what runs again, lineage, and the restored training."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from atelier.tracking.store import open_store

from ..support.project import Project

MODELS = ("models/generator.safetensors", "models/discriminator.safetensors")


def test_training_continues_from_a_folder_with_frozen_layers(
    ready: Project, tmp_path: Path
) -> None:
    shutil.copytree(ready.folder / "models", tmp_path / "first")
    start = {"first": str(tmp_path / "first")}
    ready.set(**{"train.start_from": start, "train.freeze_discriminator": 1, "train.epochs": 1})
    ready.stage("start", DVC_STAGE="start@first")
    ready.stage("inputs", "train")
    ready.remove_outputs("train")
    ready.stage("train")
    before, after = (
        load_file(folder / "discriminator.safetensors")
        for folder in (tmp_path / "first", ready.folder / "models")
    )
    weights = {name for name in before if name.endswith(("weight", "bias"))}
    equal = {name for name in weights if torch.equal(before[name], after[name])}
    assert equal == {"layers.0.weight"}
    # Weights of the next layer moved by steps of the learning rate, instead of being drawn anew.
    steps = 4 * ready.settings().train.lr
    assert (before["layers.2.weight"] - after["layers.2.weight"]).abs().max() < 2 * steps


@pytest.mark.slow
def test_repro_compares_the_content_of_the_start(tracked: Project, tmp_path: Path) -> None:
    folder, place = tracked.folder, tmp_path / "first"
    first = tracked.bytes(*MODELS)
    shutil.copytree(folder / "models", place)
    tracked.set(**{"train.start_from": {"first": str(place)}})
    assert tracked.repro("train") == ["start@first", "train_inputs", "train"]
    second = tracked.bytes(*MODELS)
    assert tracked.repro("train") == ["start@first"]
    # A file with other content, then the first one again, which DVC has in its cache.
    for name in MODELS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(place / Path(name).name, tmp_path / name)
        shutil.copy(folder / name, place)
    assert tracked.repro("train") == ["start@first", "train_inputs", "train"]
    assert not set(tracked.bytes(*MODELS).values()) & {*first.values(), *second.values()}
    for name in MODELS:
        shutil.copy(tmp_path / name, place)
    assert tracked.repro("train") == ["start@first", "train_inputs"]
    assert tracked.bytes(*MODELS) == second
    # Without a start, the first training is restored, although the copies are still there.
    tracked.set(**{"train.start_from": {}})
    assert tracked.repro("train") == ["train_inputs"]
    assert tracked.bytes(*MODELS) == first
    assert tracked.bytes("data/start").keys() > {"data/start/generator.safetensors"}


@pytest.mark.slow
def test_lineage_leads_from_a_fine_tuned_training_to_the_first_one(tracked: Project) -> None:
    client, experiment = open_store(tracked.folder, "atelier")
    query = "tags.`atelier.stage` = 'train'"
    (first,) = client.search_runs([experiment], query)
    tracked.set(**{"train.start_from": {"first": first.info.run_id}, "train.epochs": 1})
    tracked.repro("train")
    tracked.delivered()
    second = client.search_runs([experiment], query)[0]
    assert second.info.run_id != first.info.run_id
    tags = second.data.tags
    assert (tags["start.place"], tags["start.run"]) == (first.info.run_id, first.info.run_id)
    assert tags["start.generator"] == tags["input.data/start/generator.safetensors"]
    text = tracked.atelier("lineage", "models")
    (line,) = [line for line in text.splitlines() if "started from" in line]
    assert f"run {first.info.run_id}, generator {tags['start.generator']}" in line
    producers = [line.split()[:3] for line in text.splitlines() if " run " in line]
    assert ["train", "run", f"{second.info.run_id},"] in producers
    assert ["train", "run", f"{first.info.run_id},"] in producers
