"""Command that compares two versions of the data set."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atelier.cli.checkout import require_force, write_output
from atelier.core.errors import count_text

if TYPE_CHECKING:
    from atelier.data.image_changes import File, ImageChanges

_LIST = "data/images.csv"


def data_diff(
    before: Annotated[
        str, typer.Argument(help="commit, branch, tag or DVC experiment", metavar="REV1")
    ],
    after: Annotated[
        str | None,
        typer.Argument(help="the version to compare it with", metavar="REV2", show_default=False),
    ] = None,
    *,
    html: Annotated[
        Path | None, typer.Option(help="write a page with thumbnails", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print names and hashes as JSON")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an existing page")] = False,
) -> None:
    """List the images that were added, removed, changed or renamed between two versions.

    Without REV2, REV1 is compared with the files in data/.

    Example: atelier data-diff HEAD~1 --html changes.html
    """
    from atelier.data.image_changes import compare_image_lists
    from atelier.data.image_list import read_image_list

    if html:
        require_force([html], force)
    names = (before, "the workspace" if after is None else after)
    outputs = (_outputs(before), _outputs(after))
    old = read_image_list(outputs[0](_LIST), f"{_LIST} of {before}")
    new = read_image_list(outputs[1](_LIST), f"{_LIST} of {after}" if after else "")
    changes = compare_image_lists(old, new)
    if html:
        from atelier.cli.data_diff_page import Version, write_data_diff

        committed = (True, after is not None)
        versions = [Version(*version) for version in zip(names, outputs, committed, strict=True)]
        with write_output(html):
            write_data_diff(html, versions, changes)
    if as_json:
        values = {"before": names[0], "after": names[1], **changes.as_json()}
        typer.echo(json.dumps(values, indent=2))
        return
    typer.echo("\n".join(_lines(names, changes)))
    if html:
        typer.echo(f"\n{html} shows them.")


def _outputs(revision: str | None) -> Callable[[str], Path]:
    """Return a function that finds the file of an output; ``None`` is the workspace."""
    from atelier.tracking.recorded_outputs import recorded_outputs

    return Path if revision is None else recorded_outputs(revision).fetch


def _lines(names: tuple[str, str], changes: "ImageChanges") -> Iterator[str]:
    from atelier.data.image_changes import file_name, file_state

    counts = changes.counts()
    total = sum(counts.values())
    totals = f"{count_text(total - counts['added'], 'file')} in {names[0]}"
    totals += f", {total - counts['removed']:,} in {names[1]}"
    yield f"{totals}: {', '.join(f'{count:,} {kind}' for kind, count in counts.items())}"
    for kind, files in (("added", changes.added), ("removed", changes.removed)):
        if files:
            yield f"\n{kind}:"
            yield from (f"  {_text(file)}" for file in files)
    if changes.changed:
        yield "\nchanged:"
        for before, after in changes.changed:
            yield f"  {_text(after)}, before: {file_state(before)}"
    if changes.renamed:
        yield "\nrenamed:"
        for before, after in changes.renamed:
            yield f"  {file_name(before)} -> {_text(after)}"


def _text(file: "File") -> str:
    from atelier.data.image_changes import file_name, file_state

    return f"{file_name(file)} ({file_state(file)})"
