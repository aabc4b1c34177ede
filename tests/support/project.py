"""Clones of the project in temporary folders, in which the real dvc and mlflow run."""

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
# The smallest settings with which all stages run.
TINY: dict[str, Any] = {
    "download.sample.count": 96,
    "convert.validation_fraction": 0.17,
    "convert.test_fraction": 0.17,
    "convert.image_size": 16,
    "data_report.outlier_images": 0,  # the import of torch and the features take seconds
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
    "tracking.enabled": False,  # the import of MLflow takes seconds; tests of tracking turn it on
}
TRACKED = {"tracking.enabled": True}
AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@b")


@dataclass(frozen=True)
class Project:
    """Clone of the project, and the commands of a user in it."""

    folder: Path

    def run(self, *command: str, ok: bool | None = True, **environment: str) -> str:
        """Run a command; return its output. It must fail if ``ok`` is False; None allows both."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env={**inherited, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that it can be killed with all its processes
        ) as program:
            try:
                output, _ = program.communicate(timeout=300)
            except BaseException:
                os.killpg(program.pid, signal.SIGKILL)
                raise
        as_expected = ok in (None, program.returncode == 0)
        assert as_expected, f"{command}: {program.returncode}\n{output}"
        return output

    def stage(self, name: str, *arguments: str, ok: bool | None = True, **environment: str) -> str:
        """Run a stage in this process; return its output. ``ok`` is that of :meth:`run`.

        This saves the start of an interpreter and of DVC. The stage uses the code under test,
        not the clone's copy. DVC neither removes nor records outputs.
        """
        script, output = self.folder / "stages" / f"{name}.py", io.StringIO()
        with (
            _as_in_a_shell(self.folder, [str(script), *arguments], environment),
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.raises(SystemExit) as exited,
        ):
            runpy.run_path(str(script), run_name="__main__")
        as_expected = ok in (None, not exited.value.code)
        assert as_expected, f"{name}: {exited.value.code}\n{output.getvalue()}"
        return output.getvalue()

    def atelier(self, *arguments: str, ok: bool = True) -> str:
        """Run a command of ``atelier`` in this process; return its output."""
        output = io.StringIO()
        with (
            _as_in_a_shell(self.folder, ["atelier", *arguments], {}),
            redirect_stdout(output),
            redirect_stderr(output),
            pytest.raises(SystemExit) as exited,
        ):
            main()
        assert (not exited.value.code) == ok, (
            f"{arguments}: {exited.value.code}\n{output.getvalue()}"
        )
        return output.getvalue()

    def remove_outputs(self, stage: str) -> None:
        """Remove the outputs of a stage, as DVC does before it runs the stage."""
        definition = read_yaml(self.folder / "dvc.yaml")["stages"][stage]
        for kind in ("outs", "metrics", "plots"):
            for entry in definition.get(kind, []):
                path, options = (
                    next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
                )
                output = self.folder / path
                if output.is_dir():
                    shutil.rmtree(output)
                elif not options.get("persist"):
                    output.unlink(missing_ok=True)

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """Run ``dvc repro``; return the executed stages."""
        output = self.run("dvc", "repro", *arguments, **environment)
        lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
        return [line.split("'")[1] for line in lines]

    def wait_for_queue(self, *texts: str) -> str:
        """Wait until the status of DVC's queue has one of ``texts``, or no task is left; return it.

        DVC writes a task's file in place. Reading it at that moment fails with "Expecting value".
        Only this error is retried.
        """
        end = time.monotonic() + 280
        while True:
            status = self.run("dvc", "queue", "status", ok=None)
            if "ERROR: unexpected error - Expecting value" not in status:
                assert "ERROR" not in status, status
                waiting = re.search(r" (Queued|Running)\b", status)
                if any(text in status for text in texts) or not (texts or waiting):
                    return status
            assert time.monotonic() < end, status
            time.sleep(1)

    def copy(self, folder: Path) -> "Project":
        """Copy the project with all outputs."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def commit(self) -> None:
        """Commit all tracked files."""
        self.run("git", "add", "-u")
        self.run("git", *AUTHOR, "commit", "-qm", "more")

    def delivered(self) -> None:
        """Wait until the entries of all finished executions are delivered to MLflow."""
        journal = self.folder / ".atelier" / "journal"
        end = time.monotonic() + 120
        while any(journal.iterdir()) if journal.exists() else False:
            assert time.monotonic() < end, f"not delivered: {sorted(journal.rglob('*'))}"
            time.sleep(0.1)

    def set(self, **values: Any) -> None:
        """Change settings by dotted key, for example ``set(**{"train.lr": 0.1})``."""
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
        """Return the current settings."""
        return settings.load(self.folder / "params.yaml")

    def bytes(self, *paths: str) -> dict[str, bytes]:
        """Return the content of files and of all files in folders, by relative path."""
        files = [
            file
            for path in paths
            for file in [self.folder / path, *(self.folder / path).rglob("*")]
            if file.is_file()
        ]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


@contextmanager
def _as_in_a_shell(folder: Path, command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Set folder, ``sys.argv`` and variables of this process; restore its state afterwards."""
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    level = logging.getLogger("dvc").level
    with pytest.MonkeyPatch.context() as patch, chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as without pytest, which shows deprecation warnings
        for name in set(os.environ) - {"DVC_NO_ANALYTICS", "MLFLOW_DISABLE_TELEMETRY"}:
            if name.startswith(("DVC_", "MLFLOW_")):
                patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", command)
        try:
            yield
        finally:
            logging.getLogger("dvc").setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)


def clone(folder: Path, **changes: Any) -> Project:
    """Copy all files that git does not ignore into a new repository with tiny settings."""
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
    for arguments in (["init", "-q"], ["add", "-A"], [*AUTHOR, "commit", "-qm", "clone"]):
        project.run("git", *arguments)
    return project


def prepare(folder: Path) -> None:
    """Run the complete pipeline; write a project with its MLflow runs, and one without."""
    tracked = clone(folder / "tracked", **TRACKED)
    tracked.repro()
    tracked.delivered()
    # No stage depends on the section `tracking`, so that no stage runs again.
    untracked = tracked.copy(folder / "untracked")
    shutil.rmtree(untracked.folder / "mlruns/atelier")
    (untracked.folder / "mlflow.db").unlink()
    untracked.set(**{"tracking.enabled": False})
    untracked.run("git", *AUTHOR, "commit", "-q", "--amend", "--no-edit", "params.yaml")
