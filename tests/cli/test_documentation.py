"""Commands of the documentation that use a generator, run as they are printed."""

import re
import shlex

import pytest

from ..project import ROOT, Project

COMMAND = re.compile(r"^    (?:\$ )?(atelier (?:generate|export) .*)$", re.MULTILINE)


def printed() -> list[str]:
    """All commands of README.md and docs/generate.md that make files of a generator."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("README.md", "docs/generate.md")]
    return [
        command.partition("#")[0].strip() for text in texts for command in COMMAND.findall(text)
    ]


@pytest.mark.slow
def test_printed_commands_can_be_repeated_and_leave_git_clean(ready: Project) -> None:
    commands = printed()
    assert len(commands) >= 6
    ready.commit()  # dvc.lock
    outputs = [ready.run(*shlex.split(command)) for command in commands]
    made = ready.bytes("generated")
    assert len(made) >= 6
    assert [ready.run(*shlex.split(command)) for command in commands] == outputs
    assert ready.bytes("generated") == made
    assert ready.run("git", "status", "--porcelain") == ""
