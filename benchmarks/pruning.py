"""Training steps that pruning saves, and the best KID with and without it.

The trials of a study are trained to their end, with random settings. Then the study is repeated
with the pruner of `atelier search`: a random sampler draws the same settings, and on a CPU the same
training gives the same KIDs, so that the recorded ones are reported. Several orders of the trials
show how much the saving depends on chance.

Usage: python benchmarks/pruning.py FOLDER [--trials 24] [--epochs 12] [--orders 20] [--json]
       FOLDER has images.npz and validation.npz of the convert stage.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from command import show

from atelier.core.presets import preset_values
from atelier.core.settings import TrainSettings
from atelier.data.dataset import load_images
from atelier.gan.distributed import single_process
from atelier.gan.fit import TrainingEvents, build_trainer
from atelier.gan.history import DivergedError
from atelier.search.settings import Space
from atelier.search.study import distribution, median_pruner, setting_value

ROOT = Path(__file__).resolve().parents[1]
SPACE = {
    "lr": Space(low=0.00001, high=0.01, log=True),
    "discriminator_lr": Space(low=0.00001, high=0.01, log=True),
    "batch_size": Space(choices=[16, 32, 64]),
    "ema_decay": Space(low=0.0, high=0.99),
    "loss": Space(choices=["bce", "hinge", "relativistic"]),
}
Curve = tuple[list[float], int]
"""KID of each epoch, and steps per epoch."""


def draw(trials: int) -> list[dict[str, Any]]:
    """Return the settings of all trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = []
    for _ in range(trials):
        trial = study.ask({key: distribution(space) for key, space in SPACE.items()})
        drawn.append({key: setting_value(SPACE[key], trial.params[key]) for key in SPACE})
    return drawn


def train(folder: Path, epochs: int, changes: dict[str, Any]) -> Curve:
    """Train with the settings of the preset `sample` and some changes."""
    values = preset_values("sample", ROOT / "presets")["train"]
    values |= {"epochs": epochs, "kid_every_epochs": 1, "kid_samples": 400} | changes
    trainer = build_trainer(
        TrainSettings.model_validate(values),
        load_images(folder / "images.npz").pixels,
        held_out=load_images(folder / "validation.npz").pixels,
        runtime=single_process(),
        events=TrainingEvents(),
    )
    kids = []
    try:
        kids = [epoch.quality for epoch in trainer.run() if epoch.quality is not None]
    except DivergedError:
        kids += [float("inf")] * (epochs - len(kids))
    return kids, trainer.steps_per_epoch


def prune(curves: list[Curve]) -> tuple[int, float]:
    """Return the steps that a pruned study needs, and its best KID."""
    study = optuna.create_study(pruner=median_pruner())
    steps, best = 0, float("inf")
    for kids, per_epoch in curves:
        trial = study.ask()
        for epoch, kid in enumerate(kids, 1):
            steps += per_epoch
            trial.report(kid, epoch)
            if epoch < len(kids) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            best = min(best, kids[-1])
            study.tell(trial, kids[-1])
    return steps, best


def main() -> None:
    """Train all trials, and print what pruning saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    curves = []
    for number, changes in enumerate(draw(given.trials)):
        curves.append(train(given.folder, given.epochs, changes))
        print(number, changes, [round(kid, 3) for kid in curves[-1][0]], flush=True)
    whole = sum(len(kids) * per_epoch for kids, per_epoch in curves)
    rng = np.random.default_rng(1)
    orders = [range(given.trials)] + [rng.permutation(given.trials) for _ in range(given.orders)]
    results = [prune([curves[i] for i in order]) for order in orders]
    saved = [1 - steps / whole for steps, _ in results]
    best = min(kids[-1] for kids, _ in curves)
    summary: dict[str, Any] = {"name": "pruning", "trials": given.trials, "steps": whole}
    summary |= {"saved": round(saved[0], 3), "saved_lowest": round(min(saved), 3)}
    summary |= {"saved_median": round(statistics.median(saved), 3)}
    summary |= {"best": best, "best_pruned": results[0][1]}
    summary["orders_with_the_same_best"] = sum(found == best for _, found in results) / len(orders)
    show(summary, given.json)


if __name__ == "__main__":
    main()
