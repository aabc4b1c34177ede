"""Files of a checkout that several commands read, and how commands write theirs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from atelier.errors import AtelierError

PARAMS = Path("params.yaml")
PRESETS = Path("presets")


def refuse_to_replace(targets: Sequence[Path], force: bool) -> None:
    """Refuse to replace anything unasked."""
    there = [target for target in targets if target.exists()]
    if there and not force:
        more = len(there) - 1
        are, them = (f" and {more} more are", "them") if more else (" is", "it")
        raise AtelierError(
            f"{there[0]}{are} there already; choose another place, or give --force to replace"
            f" {them}."
        )


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Say in a sentence that a place cannot be written."""
    try:
        yield
    except OSError as error:
        raise AtelierError(f"{target} cannot be written ({error.strerror or error}).") from None
