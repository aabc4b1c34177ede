"""Commands and links in the documentation."""

import re
import shlex
from urllib.parse import unquote

import pytest

from ..support.project import ROOT, Project

COMMAND = re.compile(r"^    (?:\$ )?(atelier (?:generate|export) .*)$", re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)>\s#]+)")
EXTERNAL_LINK = re.compile("[a-z]+:")


def documented_commands() -> list[str]:
    """Return the commands in README.md and docs/generate.md that write files of a generator."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/generate.md")]
    return [
        command.partition("#")[0].strip() for text in texts for command in COMMAND.findall(text)
    ]


def test_relative_links_exist() -> None:
    pages = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text("utf-8"))]
    local_links = [(page, link) for page, link in links if not EXTERNAL_LINK.match(link)]
    assert len(local_links) > 20
    broken = [
        (page, link) for page, link in local_links if not (page.parent / unquote(link)).exists()
    ]
    assert broken == []


@pytest.mark.slow
def test_documented_commands_are_repeatable_and_leave_git_clean(ready: Project) -> None:
    commands = documented_commands()
    assert len(commands) >= 6
    ready.commit()  # dvc.lock
    outputs = [ready.run(*shlex.split(command)) for command in commands]
    files = ready.bytes("generated")
    assert len(files) >= 6
    repeated_outputs = [ready.run(*shlex.split(command)) for command in commands]
    for first, second in zip(outputs, repeated_outputs, strict=True):
        *notices, last = second.splitlines(keepends=True)
        assert last == first
        assert len(notices) == 1
        assert "there already: the new content is compared" in notices[0]
    assert ready.bytes("generated") == files
    assert ready.run("git", "status", "--porcelain") == ""
