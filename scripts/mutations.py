"""Mutation score: the share of single-point changes of the code that make a fast test fail.

    python scripts/mutations.py draw --seed 1 --count 200 mutants.jsonl
    python scripts/mutations.py cover coverage.json
    python scripts/mutations.py run mutants.jsonl coverage.json results.jsonl
    python scripts/mutations.py report mutants.jsonl results.jsonl

`draw` chooses places in the packages at random, with equal probability, and one of cosmic-ray's
changes for each place (https://cosmic-ray.readthedocs.io). It leaves out annotations and error
messages, because no test should depend on them. `cover` runs the fast tests once and records the
lines and the time of each test. `run` applies one change after the other in a temporary clone. It
runs the tests of the package that reach the changed line, the fastest first, until one fails or 30
seconds of a core have passed. Each result is appended at once, so that an interrupted run can
continue. A mutant is stored as a line of a function and its replacement, so that it can be applied
to later code. If that line no longer exists, the result records this.

Needs `pip install cosmic-ray pytest-cov`, which are not dependencies of the project.
"""

import argparse
import ast
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gan", "metrics", "style", "data", "sample_faces", "tracking")
SECONDS, BUDGET = 30, 24  # for one mutant; what its tests may have taken in `cover`, start excluded
Row = dict[str, Any]


def rows(file: Path) -> list[Row]:
    """Read a file of JSON lines; return an empty list if it is missing."""
    return (
        [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    )


def modules() -> list[Path]:
    """Return the modules of the packages, relative to the project."""
    found = (file for name in PACKAGES for file in (ROOT / "src/atelier" / name).rglob("*.py"))
    return sorted(file.relative_to(ROOT) for file in found)


def draw(seed: int, count: int) -> Iterator[Row]:
    """Choose places at random, and one mutant of each."""
    places: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = {}
    for module in modules():
        for place, operator, occurrence in changes_of(module):
            places.setdefault((str(module), place), []).append((operator, occurrence))
    rng = np.random.default_rng(seed)
    known, number = sorted(places), 0
    for index in rng.permutation(len(known)):
        choices = places[known[index]]
        mutant = mutant_of(known[index][0], *choices[rng.integers(len(choices))])
        if mutant is not None:
            number += 1
            yield {"id": number, **mutant}
        if number == count:
            return


def changes_of(module: Path) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Yield the place, the operator and the operator's occurrence of every change of a module."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    code = (ROOT / module).read_text("utf-8")
    ignored = ignored_places(ast.parse(code))
    nodes = list(ast_nodes(get_ast(code)))
    for name in operator_names():
        if name.rpartition("/")[2] in ("NoOp", "VariableInserter", "VariableReplacer"):
            continue
        operator = get_operator(name)()
        positions = [p[0] for node in nodes for p in operator.mutation_positions(node)]
        for occurrence, place in enumerate(positions):
            if not any(start <= place < end for start, end in ignored):
                yield place, name, occurrence


def mutant_of(module: str, name: str, occurrence: int) -> Row | None:
    """Describe a change as a line and its replacement; ``None`` if it spans several lines."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = (ROOT / module).read_text("utf-8")
    lines = code.split("\n")
    try:
        changed = (mutate_code(code, get_operator(name)(), occurrence) or code).split("\n")
    except AttributeError:  # cosmic-ray fails for `errors.Missing` in an except clause
        return None
    differs = [n for n, (a, b) in enumerate(zip(lines, changed, strict=False)) if a != b]
    if len(changed) != len(lines) or len(differs) != 1:
        return None
    function, first = function_at(ast.parse(code), differs[0] + 1)
    before = lines[differs[0]]
    return {
        "module": module,
        "function": function,
        "nth": lines[first - 1 : differs[0]].count(before),
        "before": before,
        "after": changed[differs[0]],
        "operator": name.rpartition("/")[2],
    }


def ignored_places(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return start and end of all annotations, imports, docstrings and raised errors."""
    found: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.arg(annotation=ast.AST() as kept) | ast.FunctionDef(returns=ast.AST() as kept):
                found.append(kept)
            case ast.AnnAssign(annotation=kept):
                found.append(kept)
            case ast.Raise() | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
                found.append(node)
            case ast.Assign(value=ast.Subscript() | ast.BinOp(op=ast.BitOr())) if (
                node.col_offset == 0
            ):
                found.append(node)  # the name of a type
    return [
        ((n.lineno, n.col_offset), (n.end_lineno or 0, n.end_col_offset or 0))  # type: ignore[attr-defined]
        for n in found
    ]


def function_at(tree: ast.Module, line: int) -> tuple[str, int]:
    """Return the full name and the first line of the function or class that contains a line."""
    path: list[str] = []
    first, node = 1, tree
    while True:
        inside = (
            child
            for child in ast.walk(node)
            if child is not node
            and isinstance(child, ast.FunctionDef | ast.ClassDef)
            and child.lineno <= line <= (child.end_lineno or 0)
        )
        found = next(inside, None)
        if found is None:
            return ".".join(path), first
        path.append(found.name)
        first, node = found.lineno, found  # type: ignore[assignment]


def find(mutant: Row) -> int | None:
    """Return the number of the line that a mutant changes, in the current code."""
    file = ROOT / mutant["module"]
    if not file.exists():
        return None
    code = file.read_text("utf-8")
    tree, seen = ast.parse(code), 0
    for number, line in enumerate(code.split("\n"), 1):
        if line == mutant["before"] and function_at(tree, number)[0] == mutant["function"]:
            if seen == mutant["nth"]:
                return number
            seen += 1
    return None


def cover() -> Row:
    """Run the fast tests; return each test's seconds and the lines of each module it runs."""
    import xml.etree.ElementTree as Tree

    from coverage import CoverageData

    seconds: dict[str, float] = {}
    lines: dict[str, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data, report = Path(scratch, "coverage"), Path(scratch, "report.xml")
        command = [
            *("-m", "pytest", "-q", "-n", "2", "-m", "not slow", "-p", "no:cacheprovider", "tests"),
            *("--cov=src/atelier", "--cov-context=test", "--cov-report=", f"--junitxml={report}"),
        ]
        path = os.pathsep.join(("src", os.environ.get("PYTHONPATH", "")))
        environment = {**os.environ, "COVERAGE_FILE": str(data), "PYTHONPATH": path}
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=False)
        for case in Tree.parse(report).iter("testcase"):
            if not len(case):  # neither failed nor skipped
                place = case.get("classname", "").replace(".", "/")
                seconds[f"{place}.py::{case.get('name')}"] = float(case.get("time", 0))
        known = CoverageData(str(data))
        known.read()
        for file in known.measured_files():
            module = lines.setdefault(str(Path(file).relative_to(ROOT)), {})
            for line, contexts in known.contexts_by_lineno(file).items():
                module[str(line)] = sorted({c.split("|")[0] for c in contexts if c})
    return {"seconds": seconds, "lines": lines}


def tests_of(mutant: Row, line: int, covered: Row) -> list[str]:
    """Return the tests to run within the time limit, the fastest first."""
    code = (ROOT / mutant["module"]).read_text("utf-8")
    around = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.stmt | ast.excepthandler)
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if not around:
        return []
    inner = min(around, key=lambda node: (node.end_lineno or 0) - node.lineno)
    of_module = covered["lines"].get(mutant["module"], {})
    reach = {
        test
        for number in range(inner.lineno, (inner.end_lineno or 0) + 1)
        for test in of_module.get(str(number), ())
    }
    if not reach:  # the line runs during the import, so any test of the module may fail
        reach = {test for tests in of_module.values() for test in tests}
    seconds, spent, chosen = covered["seconds"], 0.0, []
    package = f"tests/{Path(mutant['module']).parts[2]}/"
    tests = {test for test in reach & seconds.keys() if test.startswith(package)}
    for test in sorted(tests, key=lambda test: seconds[test]):
        spent += seconds[test]
        if spent > BUDGET:
            break
        chosen.append(test)
    return chosen


def run(mutants: list[Row], covered: Row, results: Path) -> None:
    """Test each mutant that has no result yet, and append its result."""
    known = {row["id"] for row in rows(results)}
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch, "clone")
        ignored = shutil.ignore_patterns(
            ".venv", ".git", ".dvc", "mlruns", "__pycache__", ".*_cache"
        )
        shutil.copytree(ROOT, clone, ignore=ignored)
        for mutant in mutants:
            if mutant["id"] in known:
                continue
            line = find(mutant)
            outcome, test = ("gone", "") if line is None else attempt(clone, mutant, line, covered)
            with results.open("a", encoding="utf-8") as file:
                file.write(
                    json.dumps({"id": mutant["id"], "outcome": outcome, "test": test}) + "\n"
                )
            print(
                mutant["id"], outcome, mutant["module"], mutant["after"].strip(), test, flush=True
            )


def attempt(clone: Path, mutant: Row, line: int, covered: Row) -> tuple[str, str]:
    """Change one line of the clone, run the tests, restore it; return the outcome and the test."""
    tests = tests_of(mutant, line, covered)
    if not tests:
        return "not reached", ""
    file = clone / mutant["module"]
    code = file.read_text("utf-8")
    lines = code.split("\n")
    lines[line - 1] = mutant["after"]
    file.write_text("\n".join(lines), "utf-8")
    options = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:randomly")
    command = [sys.executable, "-B", "-m", "pytest", *options, *tests]
    environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    try:
        with subprocess.Popen(
            command, cwd=clone, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limit_time,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=10 * SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return "over time", ""
    finally:
        file.write_text(code, "utf-8")
    if process.returncode < 0:
        return "over time", ""
    failed = [
        part.split(" ")[1] for part in output.split("\n") if part.startswith(("FAILED", "ERROR"))
    ]
    return ("survived", "") if process.returncode == 0 else ("killed", failed[0] if failed else "")


def limit_time() -> None:
    """Limit a process to 30 seconds of CPU time, which other load does not affect."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def report(mutants: list[Row], results: list[Row]) -> None:
    """Print the score of each package, and every mutant that no test detected."""
    outcome = {row["id"]: row["outcome"] for row in results}
    for package in (*PACKAGES, ""):
        of_package = [m for m in mutants if m["module"].startswith(f"src/atelier/{package}")]
        counts = Counter(outcome.get(m["id"], "waiting") for m in of_package)
        tried = sum(counts.values()) - counts["gone"] - counts["waiting"]
        share = f"{counts['killed'] / tried:.0%}" if tried else "-"
        print(f"{package or 'all':10} {share:>5}  {dict(counts)}")
    for mutant in mutants:
        if outcome.get(mutant["id"]) in ("survived", "over time", "not reached"):
            print(
                f"\n{mutant['id']} {outcome[mutant['id']]}: {mutant['module']} {mutant['function']}"
            )
            print(f"- {mutant['before'].strip()}\n+ {mutant['after'].strip()}")


def main() -> None:
    """Run the command of the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("--seed", type=int, default=1)
    drawing.add_argument("--count", type=int, default=200)
    drawing.add_argument("mutants", type=Path)
    commands.add_parser("cover").add_argument("coverage", type=Path)
    running, reporting = commands.add_parser("run"), commands.add_parser("report")
    for name in ("mutants", "coverage", "results"):
        running.add_argument(name, type=Path)
    for name in ("mutants", "results"):
        reporting.add_argument(name, type=Path)
    asked = parser.parse_args()
    match asked.command:
        case "draw":
            drawn = draw(asked.seed, asked.count)
            asked.mutants.write_text("".join(json.dumps(row) + "\n" for row in drawn), "utf-8")
        case "cover":
            asked.coverage.write_text(json.dumps(cover()), "utf-8")
        case "run":
            run(rows(asked.mutants), json.loads(asked.coverage.read_text("utf-8")), asked.results)
        case "report":
            report(rows(asked.mutants), rows(asked.results))


if __name__ == "__main__":
    main()
