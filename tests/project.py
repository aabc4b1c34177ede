"""Clones of the project in temporary folders, where the real dvc and mlflow run."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atelier import settings

ROOT = Path(__file__).parents[1]
# Everything that the chain does, on as little as it can be done on.
TINY: dict[str, Any] = {
    "download.sample.count": 96,
    "convert.validation": 0.17,
    "convert.test": 0.17,
    "convert.image_size": 16,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.latent_size": 8,
    "train.generator_width": 4,
    "train.discriminator_width": 4,
    "train.samples": 9,
    "train.measure_every": 0,
    "train.lr": 0.0002,
    "train.discriminator_lr": 0.0,
    "train.beta1": 0.5,
    "train.ema": 0.0,
    "train.loss": "bce",
    "train.flip": False,
    "train.discriminator_norm": True,
    "train.spectral_norm": False,
    "evaluate.features": "random",
    "evaluate.samples": 24,
    "render.columns": 3,
    "render.tile": 16,
    "stylize.count": 1,
    "stylize.picture_size": 32,
    "stylize.iterations": 3,
    "runtime.device": "cpu",
    "runtime.progress": False,
}


@dataclass(frozen=True)
class Project:
    """A clone of the project, with commands run in it as a user would."""

    folder: Path

    def run(self, *command: str, ok: bool | None = True, **environment: str) -> str:
        """Run a command; return its output. ``ok=False`` expects it to fail; ``None``, neither."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env={**inherited, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a closed terminal does not reach it, and it ends as a whole
        ) as program:
            try:
                output, _ = program.communicate(timeout=300)
            except BaseException:
                os.killpg(program.pid, signal.SIGKILL)
                raise
        met = ok in (None, program.returncode == 0)
        assert met, f"{command}: {program.returncode}\n{output}"
        return output

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Run ``dvc repro``; return the stages that ran."""
        told = self.run("dvc", "repro", *arguments, **environment)
        lines = [line for line in told.splitlines() if line.startswith("Running stage '")]
        return [line.split("'")[1] for line in lines]

    def queue_ended(self, *words: str) -> str:
        """Wait until ``dvc queue status`` says one of ``words``, or nothing waits or runs any more.

        Return what it said. DVC writes a task's file in place and fails if it reads it at that
        moment ("Expecting value"): that answer, and no other, is asked for again.
        """
        end = time.monotonic() + 280
        while True:
            told = self.run("dvc", "queue", "status", ok=None)
            if "ERROR: unexpected error - Expecting value" not in told:
                assert "ERROR" not in told, told
                waiting = re.search(r" (Queued|Running)\b", told)
                if any(word in told for word in words) or not (words or waiting):
                    return told
            assert time.monotonic() < end, told
            time.sleep(1)

    def copy(self, folder: Path) -> "Project":
        """Copy all of it, what was made too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def commit(self) -> None:
        """Commit what git tracks."""
        self.run("git", "add", "-u")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "more")

    def delivered(self) -> None:
        """Wait until everything that ended has been told to MLflow."""
        journal = self.folder / ".atelier" / "journal"
        end = time.monotonic() + 120
        while any(journal.iterdir()) if journal.exists() else False:
            assert time.monotonic() < end, f"not delivered: {sorted(journal.rglob('*'))}"
            time.sleep(0.1)

    def set(self, **values: Any) -> None:
        """Change settings by dotted key, as ``set(**{"train.lr": 0.1})``."""
        yaml = YAML()
        yaml.preserve_quotes = True
        file = self.folder / "params.yaml"
        document = yaml.load(file.read_text("utf-8"))
        for key, value in values.items():
            section = document
            *path, last = key.split(".")
            for part in path:
                section = section[part]
            section[last] = value
        with file.open("w", encoding="utf-8") as out:
            yaml.dump(document, out)

    def settings(self) -> settings.Settings:
        """The settings as they stand."""
        return settings.load(self.folder / "params.yaml")

    def bytes(self, *places: str) -> dict[str, bytes]:
        """The content of files and of all files of folders."""
        files = [
            file
            for place in places
            for file in [self.folder / place, *(self.folder / place).rglob("*")]
            if file.is_file()
        ]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


def clone(folder: Path) -> Project:
    """Copy what git tracks, or would, into a fresh repository with tiny settings."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    project = Project(folder)
    project.set(**TINY)
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm clone"):
        project.run("git", *command.split())
    return project
