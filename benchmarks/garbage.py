"""Duration of `atelier gc` without --yes, on a project with many commits and runs.

Makes a repository whose commits change dvc.lock, DVC's cache with their files, and a store of
MLflow with pipeline runs of six stages each. Half of the runs made the files of commits. Then the
command runs as a user types it.

Usage: python benchmarks/garbage.py [--commits 300] [--runs 50] [--rounds 3] [--folder FOLDER]
       [--json]
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command import options, show
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from atelier.tracking.store import open_store, quiet_environment

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("download", "convert", "train", "evaluate", "render", "stylize")
FILES_OF_FOLDER = 40
UNNAMED = 1_000_000  # number of the first execution that no commit names


def run(folder: Path, *command: str, stdin: str = "") -> str:
    """Run a program in a folder; return its output."""
    return subprocess.run(
        command, cwd=folder, input=stdin, check=True, capture_output=True, text=True
    ).stdout


def cache_file(root: Path, content: bytes, suffix: str = "") -> str:
    """Write a file to DVC's cache; return its hash."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    file = root / ".dvc/cache/files/md5" / md5[:2] / f"{md5[2:]}{suffix}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return f"{md5}{suffix}"


def outputs(root: Path, number: int) -> dict[str, dict[str, str]]:
    """Write the outputs of a pipeline to the cache; return their hashes by stage and path.

    As in a real project, most executions restore the images and train again.
    """
    hashes: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        version = number // 50 if stage in ("download", "convert") else number
        files = {f"metrics/{stage}.json": f"{stage} {version}"}
        hashes[stage] = {path: cache_file(root, text.encode()) for path, text in files.items()}
        entries = [
            {"md5": cache_file(root, f"{stage} {version} {n}".encode()), "relpath": f"{n:03d}.png"}
            for n in range(FILES_OF_FOLDER)
        ]
        listing = json.dumps(entries, sort_keys=True).encode()
        hashes[stage][stage] = cache_file(root, listing, ".dir")
    return hashes


def lock_text(hashes: dict[str, dict[str, str]]) -> str:
    """Return a dvc.lock with these outputs."""
    lines = ["schema: '2.0'", "stages:"]
    for stage, outs in hashes.items():
        lines += [f"  {stage}:", f"    cmd: python stages/{stage}.py", "    outs:"]
        for path, md5 in outs.items():
            lines += [f"    - path: {path}", "      hash: md5", f"      md5: {md5}"]
    return "\n".join([*lines, ""])


def make_history(root: Path, commits: int) -> list[dict[str, dict[str, str]]]:
    """Commit a dvc.lock for each execution; return the hashes of each."""
    run(root, "git", "init", "--quiet", "--initial-branch=main")
    run(root, sys.executable, "-m", "dvc", "init", "--quiet")
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (root / ".gitignore").write_text("mlflow.db\nmlruns/\n.atelier/\n")
    run(root, "git", "add", "--all")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    run(root, "git", *author, "commit", "--quiet", "--message=start")
    hashes = [outputs(root, number) for number in range(commits)]
    stream = []
    for number, one in enumerate(hashes):
        text = lock_text(one)
        parent = "from refs/heads/main^0\n" if number == 0 else ""
        stream.append(
            f"commit refs/heads/main\ncommitter a <a@b> {1_700_000_000 + number} +0000\ndata 1\nx\n"
            f"{parent}M 100644 inline dvc.lock\ndata {len(text)}\n{text}\n"
        )
    run(root, "git", "fast-import", "--quiet", stdin="".join(stream))
    run(root, "git", "reset", "--quiet", "--hard")
    return hashes


def make_runs(root: Path, hashes: list[dict[str, dict[str, str]]]) -> None:
    """Log a pipeline with six stages for each of these hashes, as the delivery process does."""
    client, experiment = open_store(root, "atelier")
    settings = json.dumps({"values": list(range(20))})
    params = [Param(f"section{n % 6}.setting{n}", settings[:20]) for n in range(110)]
    for number, outs in enumerate(hashes):
        at = 1_700_000_000_000 + number * 600_000
        name = f"execution {number}"
        tags = {"atelier.pipeline": name, "stages.ran": " ".join(STAGES)}
        parent = create(client, experiment, at, name, tags)
        client.log_batch(parent, params=params, metrics=[Metric("evaluate.kid", number, at, 0)])
        for stage in STAGES:
            tags = {"atelier.stage": stage, "mlflow.parentRunId": parent}
            child = create(client, experiment, at, stage, tags)
            contents = [RunTag(f"output.{path}", md5) for path, md5 in outs[stage].items()]
            points = [Metric(f"metric{n}", n, at, n) for n in range(50)]
            client.log_batch(child, points, params[:20], contents)
            client.log_text(child, "x" * 10_000, "file.txt")
            client.set_terminated(child, "FINISHED", at + 1000)
        client.set_terminated(parent, "FINISHED", at + 1000)


def create(client: MlflowClient, experiment: str, at: int, name: str, tags: dict[str, str]) -> str:
    """Create a run and return its id."""
    return str(client.create_run(experiment, at, tags, name).info.run_id)


def main() -> None:
    """Make the project, run the command, and print the result."""
    arguments = options(__doc__, commits=300, runs=50, rounds=3, folder=Path())
    quiet_environment()
    with tempfile.TemporaryDirectory() as name:
        # A folder that exists keeps its project for another measurement.
        root = arguments.folder.resolve() if arguments.folder != Path() else Path(name)
        if not (root / "mlflow.db").exists():
            root.mkdir(exist_ok=True)
            hashes = make_history(root, arguments.commits)
            unnamed = [outputs(root, UNNAMED + n) for n in range(arguments.runs // 2)]
            make_runs(root, unnamed + hashes[: arguments.runs - len(unnamed)])
        seconds, output = [], ""
        for _ in range(arguments.rounds):
            begin = time.perf_counter()
            env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            command = [sys.executable, "-m", "atelier.cli.app", "gc"]
            output = subprocess.run(
                command, cwd=root, env=env, check=True, capture_output=True, text=True
            ).stdout
            seconds.append(time.perf_counter() - begin)
    result = {
        "name": f"gc, {arguments.commits} commits, {arguments.runs} pipelines",
        "seconds": round(statistics.median(seconds), 2),
        "removed": sum(line.startswith("goes:") for line in output.splitlines()),
        "kept": sum(line.startswith("stays:") for line in output.splitlines()),
    }
    show(result, arguments.json)


if __name__ == "__main__":
    main()
