"""Synthetic runs for the compare page."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from atelier.tracking.compared_run import ComparedRun, StylizedFile

from .arrays import random_image, random_images

CONDITIONS = {"features": "vgg19_caffe", "samples": "200", "seed": "1", "reference": "test"}
SETTINGS = {
    "download.source": "sample",
    "convert.image_size": "16",
    "convert.share_images": "public",
    "train.lr": "0.0002",
    "train.batch_size": "32",
    "train.seed": "1",
    "stylize.contents": "['generated']",
    "stylize.iterations": "50",
    "runtime.device": "auto",
}
HASHES = {"data/images.npz": "a" * 32, "data/test.npz": "b" * 32, "models": "c" * 32 + ".dir"}


def make_run(
    name: str = "run",
    settings: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    epochs: int = 3,
    **changes: Any,
) -> ComparedRun:
    """Return a run with random images.

    Args:
        name: of the run.
        settings: that differ from :data:`SETTINGS`.
        metrics: of the run; a KID by default.
        epochs: number of epochs, each with samples, a KID and ten steps.
        changes: other attributes.
    """
    seed = int((settings or {}).get("train.seed", "1"))
    steps = np.arange(1.0, 10 * epochs + 1)
    values: dict[str, Any] = {
        "source": f"MLflow run {name}",
        "status": "FINISHED",
        "date": "2026-11-28 03:00",
        "commit": "1234567890abcdef",
        "code": "c0de",
        "settings": SETTINGS | dict(settings or {}),
        "sharing": "all",
        "metrics": {"kid": 2.0, "kid_error": 0.1} if metrics is None else metrics,
        "measured_with": CONDITIONS,
        "kid_by_epoch": [(epoch, 10.0 / epoch, 0.5) for epoch in range(1, epochs + 1)],
        "losses": {"step": steps, "loss_d": 1 / steps, "loss_g": np.sqrt(steps)} if epochs else {},
        "samples": {
            epoch: partial(random_images, 20, 16, 3, seed=100 * seed + epoch)
            for epoch in range(1, epochs + 1)
        },
        "stylized": {
            f"face_01-{style}": StylizedFile("face_01", style, partial(random_image, seed, 32, 32))
            for style in ("wave", "night_sky")
        },
        "hashes": HASHES,
        "address": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
    }
    return ComparedRun(name, **(values | changes))


def seeds_of(lr: str, kids: Mapping[int, float], **changes: Any) -> list[ComparedRun]:
    """Return runs of one learning rate with these KIDs by seed."""
    return [
        make_run(
            f"lr {lr}, seed {seed}",
            {"train.lr": lr, "train.seed": str(seed)},
            {"kid": kid, "kid_error": 0.1},
            **changes,
        )
        for seed, kid in kids.items()
    ]
