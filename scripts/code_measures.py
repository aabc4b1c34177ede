"""Measures of the source code, for docs/decisions/layout.md."""

import ast
import sys
from collections import Counter
from pathlib import Path


def code_lines(file: Path) -> int:
    """Count the lines of a module without blank lines, comments and docstrings."""
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    docs: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            value = body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docs |= set(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docs
        for number, line in enumerate(text.splitlines(), start=1)
    )


def imports(file: Path, modules: dict[str, Path]) -> set[str]:
    """Return the project's modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & modules.keys()


def main() -> None:
    """Print the measures of the project in a folder, by default of this one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    files = [f for f in sorted((root / "src/atelier").rglob("*.py")) if f.name != "__init__.py"]
    modules = {".".join(f.relative_to(root / "src").with_suffix("").parts): f for f in files}
    functions: list[tuple[int, int, str]] = []  # lines, parameters that may be positional, name
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args]
                own = [a for a in arguments if a.arg not in ("self", "cls")]
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                name = f"{file.relative_to(root / 'src/atelier')}:{node.name}"
                functions.append((lines, len(own), name))
    users = [*files, *sorted((root / "stages").glob("*.py"))]
    importers = Counter(name for user in users for name in imports(user, modules))
    texts = [file.read_text("utf-8").count("\n") for file in files]
    names = Counter(file.stem for file in files)
    print("modules", len(files))
    print("lines", sum(texts), "longest module", max(texts))
    print("code lines", sum(map(code_lines, files)))
    print("longest functions", sorted(functions, reverse=True)[:5])
    print("functions over 40 lines", sum(lines > 40 for lines, _, _ in functions))
    print("functions over 60 lines", sum(lines > 60 for lines, _, _ in functions))
    many = sorted((count, name) for _, count, name in functions if count > 7)
    print("more than 7 parameters", many)
    print("modules with one importer", sum(importers[name] == 1 for name in modules))
    print("shared names", [name for name, count in names.items() if count > 1])


if __name__ == "__main__":
    main()
