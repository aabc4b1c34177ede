"""What every benchmark's command does: read its options, print what was measured."""

import argparse
import json
from collections.abc import Mapping


def options(about: str | None, **numbers: int) -> argparse.Namespace:
    """Read ``--json`` and an option for each of ``numbers``, whose values are the defaults."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def show(result: Mapping[str, object], as_json: bool) -> None:
    """Print a line for each value, and all as JSON in the last line where asked."""
    for name, value in result.items():
        print(f"{name:<32}{value}")
    if as_json:
        print(json.dumps(result))
