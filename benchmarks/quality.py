"""KID and training time of presets: the KID of held-out images over several seeds.

Every preset trains on the same images, a zip or tar file of yours, once for each seed. The real
pipeline runs in a temporary clone. KID uses the random features and, with --weights, also those of
that VGG19. Presets alternate, so that other load on the machine affects all of them. Metrics and
times are read from the MLflow runs. To measure one setting of a preset, change it: for example,
"best64 train.ema_decay=0" is that preset without the weight average.

Usage: python benchmarks/quality.py ARCHIVE
       [--presets celeba64 best64 ["best64 train.ema_decay=0" ...]]
       [--seeds 1 2 3] [--weights FILE] [--json]
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from command import show
from ruamel.yaml import YAML

from atelier.tracking.store import existing_store, quiet_environment

ROOT = Path(__file__).resolve().parents[1]


def judge(project: Any, archive: Path, preset: str, seed: int, features: str) -> dict[str, float]:
    """Train and evaluate, unless DVC has the results; return metrics and seconds."""
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name, *changes = preset.split()
    project.run("atelier", "preset", name)
    values = {key: read_value(value) for key, value in (one.split("=") for one in changes)}
    values |= {"download.source": "archive", "train.seed": seed, "evaluate.features": features}
    values |= {"download.archive.location": str(archive), "download.archive.sha256": sha256}
    project.set(**values)
    python = Path(sys.executable).parent
    # `project.run` has the time limit of tests and one thread.
    for command in (["dvc", "repro", "evaluate"], ["atelier", "sync"]):
        subprocess.run([python / command[0], *command[1:]], cwd=project.folder, check=True)
    return numbers(project.folder)


def read_value(written: str) -> Any:
    """Parse the value of a setting as in ``params.yaml``."""
    return YAML(typ="safe").load(written)


def numbers(folder: Path) -> dict[str, float]:
    """Return the metrics of the newest evaluation, and the seconds of the newest training."""
    client = existing_store(folder)
    assert client is not None
    (experiment,) = client.search_experiments(filter_string="name = 'atelier'")

    def newest(stage: str) -> Any:
        tagged = f"tags.`atelier.stage` = '{stage}'"
        order = ["attributes.start_time DESC"]
        return client.search_runs([experiment.experiment_id], tagged, 1, 1, order)[0]

    train, evaluate = newest("train").info, newest("evaluate").data.metrics
    found = {name.removeprefix("evaluate."): value for name, value in evaluate.items()}
    return {**found, "seconds": (train.end_time - train.start_time) / 1000}


def main() -> None:
    """Measure all presets and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--presets", nargs="+", default=["celeba64", "best64"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.support.project import TRACKED, clone

    quiet_environment()
    measured: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        project = clone(Path(folder) / "project", **TRACKED)
        features = ["random"]
        if given.weights:
            shutil.copy(given.weights, project.folder / "data/weights")
            features.append(given.weights.name)
        for seed in given.seeds:
            for preset in given.presets:
                for name in features:
                    found = judge(project, given.archive.resolve(), preset, seed, name)
                    measured[preset][f"kid, {name}"].append(found["kid"])
                measured[preset]["seconds"].append(found["seconds"])
                told = {key: round(values[-1], 3) for key, values in measured[preset].items()}
                print(f"{preset}, seed {seed}: {json.dumps(told)}", flush=True)
    table = {
        preset: {name: [round(value, 4) for value in values] for name, values in columns.items()}
        for preset, columns in measured.items()
    }
    reference, ours = (
        statistics.mean(table[preset]["kid, random"])
        for preset in (given.presets[0], given.presets[-1])
    )
    summary = {"name": "quality", "reference": reference, "ours": ours, "ratio": ours / reference}
    show({**summary, "limit_share": None, "seeds": given.seeds, "presets": table}, given.json)


if __name__ == "__main__":
    main()
