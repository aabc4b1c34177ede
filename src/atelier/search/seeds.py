"""Repetition of the present settings with several seeds of the training, as DVC experiments.

The names of its experiments begin alike: with the nearest preset, and a digest of the settings, the
commit and the uncommitted changes. So a repeated command finds the seeds that are finished, and
other settings or other code give other experiments.
"""

import fcntl
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from atelier.core import settings
from atelier.core.errors import AtelierError
from atelier.core.presets import STAGES
from atelier.core.settings import Settings
from atelier.tracking.environment import git, private_folder
from atelier.tracking.experiment_run import Attempt, Outcome, Progress, run_experiment
from atelier.tracking.experiments import experiments
from atelier.tracking.titles import Title

Target = Literal["train", "evaluate", "report"]
MAX_SEEDS = 30
"""Largest number of seeds: the compare page has no room for the images of more runs."""

_SEED_LIMIT = 2**32
_DIGITS = 8  # of the digest in a name
_TRAIN = ("download", "convert", "train")
# Sections that the results of a target depend on.
_SECTIONS: dict[Target, tuple[str, ...]] = {
    "train": _TRAIN,
    "evaluate": (*_TRAIN, "evaluate"),
    "report": STAGES,
}
# The settings are read, and dvc.lock is written by every pipeline; other changes are compared.
_CHANGES = (".", ":!params.yaml", ":!dvc.lock")


@dataclass(frozen=True)
class SeedPlan:
    """Experiments that differ in ``train.seed`` only.

    Attributes:
        name: that the names of all experiments begin with.
        target: last stage.
        seeds: of the training, at least one.
        changed_files: tracked files with uncommitted changes, which the experiments contain;
            without ``params.yaml`` and ``dvc.lock``.
    """

    name: str
    target: Target
    seeds: tuple[int, ...]
    changed_files: tuple[str, ...] = ()

    def experiment(self, seed: int) -> str:
        """Return the name of a seed's experiment."""
        return f"{self.name}-seed-{seed}"


def plan_seeds(root: Path, count: int, target: Target) -> SeedPlan:
    """Return the experiments of the present seed and the integers after it.

    Args:
        root: the project.
        count: number of seeds, 1 to :data:`MAX_SEEDS`.
        target: last stage.

    Raises:
        AtelierError: settings are invalid, git has no commit, or a seed is too large.
    """
    values = settings.load(root / "params.yaml")
    first = values.train.seed
    if first + count > _SEED_LIMIT:
        raise AtelierError(
            f"train.seed is {first}, and seeds end at {_SEED_LIMIT - 1}; set it to a smaller"
            f" number for {count} seeds."
        )
    listed = _git(root, "diff", "HEAD", "--name-only", "--relative", "-z", "--", *_CHANGES)
    return SeedPlan(
        name=_name(root, values, target),
        target=target,
        seeds=tuple(range(first, first + count)),
        changed_files=tuple(file for file in listed.split("\0") if file),
    )


def _name(root: Path, values: Settings, target: Target) -> str:
    """Return the nearest preset and a digest of everything that is equal for all seeds."""
    train = values.train.model_copy(update={"seed": 0})
    values = values.model_copy(update={"train": train})
    shaping = values.model_dump(mode="json", include=set(_SECTIONS[target]))
    patch = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--relative")
    content = {
        "commit": _git(root, "rev-parse", "--verify", "HEAD"),
        "changes": _git(root, "diff", "HEAD", *patch, "--", *_CHANGES),
        "target": target,
        "settings": shaping,
    }
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    # DVC allows neither a slash nor other characters that git forbids in a name.
    preset = re.sub("[^a-z0-9]+", "-", Title.of(values, root / "presets").preset.lower())
    return f"{preset.strip('-') or 'settings'}-{digest[:_DIGITS]}"


def _git(root: Path, *arguments: str) -> str:
    output = git(*arguments, cwd=root)
    if output is None:
        raise AtelierError(
            f"git cannot compare {root} with a commit, from which the experiments would start; run"
            " `git commit`, and see that `git diff HEAD` works."
        )
    return output


def finished_seeds(root: Path, plan: SeedPlan) -> dict[int, str]:
    """Return the commits of the experiments of a plan that are finished, by seed."""
    found = experiments(root)
    names = {seed: plan.experiment(seed) for seed in plan.seeds}
    return {seed: found[name] for seed, name in names.items() if name in found}


@contextmanager
def exclusive(root: Path, plan: SeedPlan) -> Iterator[int]:
    """Prevent other processes from training the same seeds while the body runs.

    Yields:
        Descriptor of the lock. A training inherits it, so that the lock is also held by one that
        outlives this process.

    Raises:
        AtelierError: another process has the lock.
    """
    folder = _folder(root)
    folder.mkdir(exist_ok=True)
    with (folder / f"{plan.name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AtelierError(
                "another process is training these seeds; wait for its end, or end it with"
                " `atelier stop`, and repeat the command."
            ) from None
        yield lock.fileno()


def run_seed(
    root: Path,
    plan: SeedPlan,
    seed: int,
    lock: int,
    observe: Callable[[Progress], bool] = lambda progress: True,
) -> Outcome:
    """Run the experiment of a seed; an unfinished training of it is resumed.

    Args:
        root: the project.
        plan: that has the seed.
        seed: of the training.
        lock: descriptor of :func:`exclusive`.
        observe: as for :func:`run_experiment`.

    Raises:
        AtelierError: settings or code differ from those of the plan.
        KeyboardInterrupt: after the training was saved.
    """
    # DVC would copy the files as they are now, under the name of those that the plan has.
    if plan_seeds(root, 1, plan.target).name != plan.name:
        raise AtelierError(
            f"seed {seed} was not started: settings or code have changed since the command was"
            " started; undo the change, or commit it, and repeat the command."
        )
    name = plan.experiment(seed)
    # Without uncommitted changes the user's workspace is not needed, and stays untouched.
    is_clean = not _git(root, "diff", "HEAD", "--name-only")
    attempt = Attempt(
        name=name,
        changes={"train.seed": seed},
        stage=plan.target,
        folder=_folder(root),
        commit=_git(root, "rev-parse", "HEAD").strip() if is_clean else "",
        descriptors=(lock,),
    )
    return run_experiment(root, attempt, observe)


def _folder(root: Path) -> Path:
    return private_folder(root) / "seeds"
