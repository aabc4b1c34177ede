"""Start stage: copy the networks of `train.start_from` to data/start.

It runs at every `dvc repro` if the setting names networks. DVC compares the copy's content, so that
a moved alias or a changed file reruns the training.
"""

from atelier.core.files import atomic_merge_dir, write_json
from atelier.core.hashing import file_digest
from atelier.core.paths import NETWORKS, ORIGIN, START
from atelier.core.settings import Settings
from atelier.tracking.run import Run
from atelier.tracking.stage import run_stage


def main(settings: Settings, run: Run) -> None:
    """Copy both networks, check them against the settings, and record where they came from."""
    from atelier.gan.fine_tuning import require_same_settings
    from atelier.tracking.trained_networks import copy_networks, load_copies, reject_own_alias

    (place,) = settings.train.start_from.values()
    reject_own_alias(place, settings.tracking.registered_model)
    with atomic_merge_dir(START) as folder:
        origin = copy_networks(place, folder)
        require_same_settings(load_copies(folder, place).arch, settings)
    digests = {name: file_digest(START / name, "md5") for name in NETWORKS}
    write_json(ORIGIN, origin.as_json() | {"md5": digests})
    print(f"start: {origin.text}, generator {digests['generator.safetensors']}", flush=True)


if __name__ == "__main__":
    run_stage("start", main, logged=False)
