"""Tests of the output of other programs."""

from pathlib import Path

import pytest

from atelier.core.errors import AtelierError
from atelier.tracking.programs import git_output, program_output


def test_output_of_a_program_has_its_input_and_variables(tmp_path: Path) -> None:
    git_output(tmp_path, "init", "-q")
    blob = git_output(tmp_path, "hash-object", "-w", "--stdin", stdin="é\n").strip()
    assert git_output(tmp_path, "cat-file", "blob", blob) == "é\n"
    variables = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "a.b", "GIT_CONFIG_VALUE_0": "c"}
    assert git_output(tmp_path, "config", "a.b", variables=variables) == "c\n"


def test_failure_is_a_sentence_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AtelierError, match=r"^`git rev-parse` failed: fatal: not a git repository"):
        git_output(tmp_path, "rev-parse", "HEAD")
    with pytest.raises(AtelierError, match=r"^`dvc status` failed: ERROR: you are not inside"):
        program_output(tmp_path, "dvc", "status")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(AtelierError, match=r"^`git status` failed: .*No such file"):
        git_output(tmp_path, "status")
