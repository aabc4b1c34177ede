"""Overhead of the pipeline: imports, the MLflow store, and DVC itself.

The pipeline runs in a temporary clone with settings so small that the stages take almost no time
for their own work. The rest is the overhead. For comparison, the imports of each stage's script
are timed alone, both those at its head and those within functions.

Usage: python benchmarks/startup.py [--repeats 3] [--json]
"""

import ast
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command import options, show

ROOT = Path(__file__).resolve().parents[1]
ALONE = {"python alone": "pass", "torch": "import torch", "mlflow": "import mlflow"}


def imports_of(stage: Path) -> str:
    """Return all import statements of a stage's script, as a program."""
    nodes = ast.walk(ast.parse(stage.read_text()))
    wanted = [ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(wanted)


def seconds(command: list[str], folder: Path) -> float:
    """Run a command and return its seconds."""
    begin = time.perf_counter()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True
    )
    return time.perf_counter() - begin


def main() -> None:
    """Measure imports and pipeline, and print the results."""
    arguments = options(__doc__, repeats=3)
    sys.path.insert(0, str(ROOT))
    from tests.support.project import TRACKED, clone

    result = {"name": "startup", "machine": platform.processor() or platform.machine()}
    stages = {path.stem: imports_of(path) for path in sorted((ROOT / "stages").glob("*.py"))}
    for name, code in (ALONE | stages).items():
        times = [seconds([sys.executable, "-c", code], ROOT) for _ in range(arguments.repeats)]
        result[f"imports, {name}"] = round(statistics.median(times), 2)
    with tempfile.TemporaryDirectory() as folder:
        project = clone(Path(folder) / "project", **TRACKED)
        result["tiny chain, store made anew"] = round(seconds(["dvc", "repro"], project.folder), 1)
        result["tiny chain, again"] = round(seconds(["dvc", "repro", "--force"], project.folder), 1)
        result["nothing to do"] = round(seconds(["dvc", "repro"], project.folder), 1)
    show(result, arguments.json)


if __name__ == "__main__":
    main()
