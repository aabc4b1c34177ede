"""Commands of the documentation that use a generator, run as they are printed; and its links."""

import re
import shlex
from urllib.parse import unquote

import pytest

from ..support.project import ROOT, Project

COMMAND = re.compile(r"^    (?:\$ )?(atelier (?:generate|export) .*)$", re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)>\s#]+)")
OUTSIDE = re.compile("[a-z]+:")


def printed() -> list[str]:
    """All commands of README.md and docs/generate.md that make files of a generator."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/generate.md")]
    return [
        command.partition("#")[0].strip() for text in texts for command in COMMAND.findall(text)
    ]


def test_relative_links_exist() -> None:
    pages = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text("utf-8"))]
    places = [(page, link) for page, link in links if not OUTSIDE.match(link)]
    assert len(places) > 20
    dead = [link for link in places if not (link[0].parent / unquote(link[1])).exists()]
    assert dead == []


@pytest.mark.slow
def test_printed_commands_can_be_repeated_and_leave_git_clean(ready: Project) -> None:
    commands = printed()
    assert len(commands) >= 6
    ready.commit()  # dvc.lock
    outputs = [ready.run(*shlex.split(command)) for command in commands]
    made = ready.bytes("generated")
    assert len(made) >= 6
    again = [ready.run(*shlex.split(command)) for command in commands]
    for first, second in zip(outputs, again, strict=True):
        *notice, last = second.splitlines(keepends=True)
        assert last == first
        assert len(notice) == 1
        assert "there already: the new content is compared" in notice[0]
    assert ready.bytes("generated") == made
    assert ready.run("git", "status", "--porcelain") == ""
