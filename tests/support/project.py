"""Clones of the project in temporary folders, where the real dvc and mlflow run."""

import io
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from atelier.cli.app import main
from atelier.core import settings
from atelier.core.yaml_files import read_yaml
from atelier.tracking.run_state import STOP_SIGNALS

ROOT = Path(__file__).parents[2]
# Everything that the chain does, on as little as it can be done on.
TINY: dict[str, Any] = {
    "download.sample.count": 96,
    "convert.validation_fraction": 0.17,
    "convert.test_fraction": 0.17,
    "convert.image_size": 16,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.latent_size": 8,
    "train.generator_channels": 4,
    "train.discriminator_channels": 4,
    "train.fixed_samples": 9,
    "train.kid_every_epochs": 0,
    "train.lr": 0.0002,
    "train.discriminator_lr": 0.0,
    "train.beta1": 0.5,
    "train.ema_decay": 0.0,
    "train.loss": "bce",
    "train.horizontal_flip": False,
    "train.discriminator_norm": True,
    "train.spectral_norm": False,
    "evaluate.features": "random",
    "evaluate.samples": 24,
    "render.columns": 3,
    "render.tile_pixels": 16,
    "stylize.generated_count": 1,
    "stylize.image_size": 32,
    "stylize.iterations": 3,
    "runtime.device": "cpu",
    "runtime.progress": False,
    "tracking.enabled": False,  # MLflow takes seconds to import; tests of tracking turn it on
}
TRACKED = {"tracking.enabled": True}
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b")


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

    def stage(self, name: str, *arguments: str, ok: bool | None = True, **environment: str) -> str:
        """Run a stage in this process; return its output; ``ok`` as of ``run``.

        It saves the seconds that a new interpreter and DVC take. The stage runs the code that
        is under test, not the clone's copy of it, and DVC removes and records nothing.
        """
        script, output = self.folder / "stages" / f"{name}.py", io.StringIO()
        with (
            _as_in_a_shell(self.folder, [str(script), *arguments], environment),
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.raises(SystemExit) as ended,
        ):
            runpy.run_path(str(script), run_name="__main__")
        met = ok in (None, not ended.value.code)
        assert met, f"{name}: {ended.value.code}\n{output.getvalue()}"
        return output.getvalue()

    def atelier(self, *words: str, ok: bool = True) -> str:
        """Run a command of ``atelier`` in this process; return its output."""
        output = io.StringIO()
        with (
            _as_in_a_shell(self.folder, ["atelier", *words], {}),
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        assert (not ended.value.code) == ok, f"{words}: {ended.value.code}\n{output.getvalue()}"
        return output.getvalue()

    def remove_outputs(self, stage: str) -> None:
        """Remove what a stage makes, as DVC does before it runs the stage."""
        definition = read_yaml(self.folder / "dvc.yaml")["stages"][stage]
        for kind in ("outs", "metrics", "plots"):
            for entry in definition.get(kind, []):
                path, options = (
                    next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                )
                place = self.folder / path
                if place.is_dir():
                    shutil.rmtree(place)
                elif not options.get("persist"):
                    place.unlink(missing_ok=True)

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
        self.run("git", *AUTHOR, "commit", "-qm", "more")

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


@contextmanager
def _as_in_a_shell(folder: Path, words: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Give this process a folder, words and variables; put back what a stage changes of it."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    level = logging.getLogger("dvc").level
    with pytest.MonkeyPatch.context() as patch, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as without pytest: what libraries deprecate is not said
        for name in set(os.environ) - {"DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY"}:
            if name.startswith(("DVC_", "MLFLOW_")):
                patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", words)
        try:
            yield
        finally:
            logging.getLogger("dvc").setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def clone(folder: Path, **changes: Any) -> Project:
    """Copy what git tracks, or would, into a fresh repository with tiny settings, some changed."""
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
    project.set(**TINY | changes)
    for words in (["init", "-q"], ["add", "-A"], [*AUTHOR, "commit", "-qm", "clone"]):
        project.run("git", *words)
    return project


def prepare(folder: Path) -> None:
    """Run the whole chain once; keep it with what MLflow holds, and without."""
    tracked = clone(folder / "tracked", **TRACKED)
    tracked.repro()
    tracked.delivered()
    # Nothing depends on the section `tracking`, so that nothing is to be done again.
    untracked = tracked.copy(folder / "untracked")
    shutil.rmtree(untracked.folder / "mlruns/atelier")
    (untracked.folder / "mlflow.db").unlink()
    untracked.set(**{"tracking.enabled": False})
    untracked.run("git", *AUTHOR, "commit", "-q", "--amend", "--no-edit", "params.yaml")
