"""Import of scripts that are not in a package."""

import importlib.util
from pathlib import Path
from types import ModuleType


def load_module(file: Path, name: str) -> ModuleType:
    """Import a Python file as a module of another name."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
