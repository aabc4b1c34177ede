"""Messages for errors of the operating system, the same in all programs."""

import errno
import os
import pickle
from pathlib import Path

import pytest

from atelier.core.errors import (
    AtelierError,
    SettingError,
    SettingName,
    is_out_of_memory,
    os_error_message,
    os_errors_as_sentences,
)
from atelier.core.settings_errors import RuleError

TARGET = Path("data/raw")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "there is no room to write data/raw (No space left on device)"),
        (errno.EDQUOT, "there is no room to write data/raw (Disk quota exceeded)"),
        (errno.EACCES, "data/raw cannot be read or written (Permission denied)"),
        (errno.EROFS, "data/raw cannot be read or written (Read-only file system)"),
        (errno.EISDIR, "data/raw cannot be read or written (Is a directory)"),
        (errno.EIO, "a disk failed while data/raw was read or written (Input/output error)"),
        (errno.ESTALE, "a disk failed while data/raw was read or written (Stale file handle)"),
    ],
)
def test_message_contains_target_and_reason(number: int, sentence: str) -> None:
    message = os_error_message(OSError(number, os.strerror(number)), TARGET)
    assert message is not None
    assert message.startswith(sentence + ";")
    assert "run again" in message


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (PermissionError(errno.EACCES, "no", "here/file"), "here/file"),
        (PermissionError(errno.EACCES, "no", b"here/file"), "here/file"),
        # Users do not know the names of temporary files.
        (PermissionError(errno.EACCES, "no", "here/.atelier-x1"), "here"),
        (OSError(errno.EISDIR, "no", "here/.atelier-x1", None, "here/file"), "here/file"),
    ],
)
def test_message_contains_file_of_error(error: OSError, name: str) -> None:
    message = os_error_message(error, TARGET)
    assert message is not None
    assert message.startswith(f"{name} cannot be read or written (no);")


@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "reset", "x"), OSError("no number")]
)
def test_other_errors_have_no_message(error: OSError) -> None:
    assert os_error_message(error, TARGET) is None
    with pytest.raises(type(error)), os_errors_as_sentences(TARGET):
        raise error


def test_context_converts_known_errors() -> None:
    with (
        pytest.raises(AtelierError, match="no room to write data/raw"),
        os_errors_as_sentences(TARGET),
    ):
        raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(
    "error",
    [
        SettingError("{key} is {found}", key=SettingName("stylize.lr"), found="a{b}.pth"),
        RuleError("{pairing} takes {{1: 1.0}}, not {found}", found="{"),
    ],
)
def test_error_of_a_worker_process_keeps_its_message(error: SettingError) -> None:
    received = pickle.loads(pickle.dumps(error))
    assert type(received) is type(error)
    assert str(received) == str(error)
    assert received.renamed(str.upper) == error.renamed(str.upper) != str(error)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB.", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("GET was unable to find an engine to execute this computation", True),
        ("could not create a primitive", True),
        ("could not create a primitive descriptor for a convolution", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", False),
        ("operation not permitted when stream is capturing", False),
    ],
)
def test_messages_of_exhausted_memory_are_recognized(message: str, expected: bool) -> None:
    assert is_out_of_memory(RuntimeError(message)) == expected
