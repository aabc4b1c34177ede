"""Redaction of secrets, compared with a slow reference, in linear time."""

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atelier.tracking.environment import uncommitted
from atelier.tracking.redact import cut_without_secrets, redact, redact_urls

PARTS = st.sampled_from(
    [
        *("token", "Secret", "api_key", "apikey", "passwd", "password", "credential", "ſecret"),
        *(
            "://",
            "a",
            "http",
            "@",
            "?",
            "#",
            "/",
            ":",
            "=",
            " ",
            "\n",
            "'",
            '"',
            "]",
            "x1",
            "é",
            "_",
        ),
    ]
)
TEXTS = st.lists(PARTS, max_size=14).map("".join)
# The definition, quadratic in the length of words.
SECRET = re.compile(
    r"(\w*(?:token|secret|passw(?:or)?d|api_?key|credential)\w*['\"]?\s*[:=]\s*)\S+", re.IGNORECASE
)
LONG = 400_000


def reference_redaction(text: str) -> str:
    """Return the text without users and queries of URLs, by a slow algorithm."""
    users = ""
    while "://" in text:
        before, _, text = text.partition("://")
        users += before + "://"
        host = re.split(r"[\s/?#]", text, maxsplit=1)[0]
        text = text[host.rfind("@") + 1 :]
    text, result = users + text, ""
    while "://" in text:
        before, _, text = text.partition("://")
        address = re.split(r"[\s?#]", text, maxsplit=1)[0]
        result, text = result + before + "://" + address, text[len(address) :]
        if text.startswith("?"):
            text = text[len(re.split(r"""[\s'"\])},]""", text, maxsplit=1)[0]) :]
    return result + text


@given(TEXTS)
def test_redaction_equals_its_definition(text: str) -> None:
    assert redact_urls(text) == reference_redaction(text)
    assert redact(text) == SECRET.sub(r"\1***", reference_redaction(text))


@pytest.mark.parametrize(
    "unit",
    [
        *("0123456789abcdef", "a://", "a://a?", "a://a@", "token ", "token", "token=", "token: "),
        *("'", "x", "=", "tokenx'", "a.", "://", "token   ", "@", "?", "passwpassw", "a+-."),
        *("token\n", " ", "\n", "é", "a://a:a@a?a token=", "api_", "://@"),
    ],
)
def test_long_adversarial_text_is_redacted(unit: str) -> None:
    # A quadratic pattern would take many minutes for each of these.
    text = unit * (LONG // len(unit))
    for start in ("", "a://", "token "):
        redact(start + text)


@given(TEXTS, st.integers(0, 60))
def test_cut_text_reveals_no_more_than_complete_text(text: str, longest: int) -> None:
    cut = cut_without_secrets(text, longest)
    if len(text) <= longest:
        assert cut == redact(text)
    else:
        assert cut.endswith("\n[cut]\n")
        words = cut.removesuffix("\n[cut]\n").split()
        assert words == redact(text).split()[: len(words)]


def test_cut_within_a_url_reveals_no_password() -> None:
    text = "see https://me:hunter2@host/a"
    for longest in range(len(text)):
        assert "hunter" not in cut_without_secrets(text, longest)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("plain\n")
    for arguments in ("init -q", "add -A", "-c user.name=a -c user.email=a@b commit -qm a"):
        subprocess.run(["git", *arguments.split()], check=True)
    return tmp_path


def test_only_beginning_of_huge_patch_is_read(repository: Path) -> None:
    (repository / "a.txt").write_bytes(b"secret=1\n" + b"0123456789abcdef" * 400_000)
    patch = uncommitted()
    assert "secret=***" in patch
    assert patch.endswith("[cut]\n")
    assert len(patch) < 1_000_010


def test_terabyte_file_is_listed(repository: Path) -> None:
    with (repository / "untracked").open("wb") as file:
        file.truncate(2**40)
    with (repository / "a.txt").open("wb") as file:
        file.truncate(2**24)
    assert "Binary files a/a.txt and b/a.txt differ" in uncommitted()


def test_changed_binary_files_are_listed(repository: Path) -> None:
    (repository / "a.txt").write_bytes(b"\0\1\2")
    assert "Binary files" in uncommitted()


@pytest.mark.parametrize("option", ["diff.mnemonicPrefix", "diff.noprefix"])
def test_patch_has_paths_in_the_project_whatever_git_is_set_to(
    repository: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    subprocess.run(["git", "config", option, "true"], check=True)
    (repository / "a.txt").write_text("changed\n")
    assert uncommitted().startswith("diff --git a/a.txt b/a.txt\n")
    project = repository / "project"
    project.mkdir()
    (project / "b.txt").write_text("new\n")
    subprocess.run(["git", "add", "--intent-to-add", "project"], check=True)
    monkeypatch.chdir(project)
    patch = uncommitted()
    assert patch.startswith("diff --git a/b.txt b/b.txt\n")
    assert "a.txt" not in patch


def test_patch_is_empty_outside_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert uncommitted() == ""
