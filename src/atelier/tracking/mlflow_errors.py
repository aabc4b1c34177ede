"""Classification of MLflow's errors: rejected content, or a problem that may be temporary."""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from atelier.core.errors import is_out_of_memory

_CONTENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_GONE = "RESOURCE_DOES_NOT_EXIST"
_TRASHED = re.compile(r"must be in the '?active'? (lifecycle_stage|state)", re.IGNORECASE)
# MLflow's message about a part of a request, which does not quote the value.
_PART = re.compile(r"(metrics|params|tags)\[\d+\]|exceeds the maximum length")
# A database's error as SQLAlchemy formats it, with the statement and its values. A value may
# contain the same words, so only the start and the end of the message are compared.
_OF_DATABASE = re.compile(
    r"\A(?:[A-Z_]+: )?(?:\(raised as a result of [^()]*\)\s*)?\((?:\w+\.)+(?P<kind>\w+)\)"
    r"|\(Background on this error at: https://sqlalche\.me/\S+\)\s*\Z"
)
# Database errors about values: SQLSTATE class 22, and two constraints.
_OF_DATA = {
    *("DataError", "StringDataRightTruncation", "NumericValueOutOfRange"),
    *("NullValueNotAllowed", "InvalidParameterValue", "InvalidTextRepresentation"),
    *("UntranslatableCharacter", "CharacterNotInRepertoire", "NotNullViolation", "CheckViolation"),
}
# Statuses of an upload that will not change if the same file is sent again.
_TOO_LARGE = {413, 414, 415, 431}
# Statuses for a wrong password, a missing permission or too many requests.
_NO_ACCESS = {401, 403, 407, 429}
# MLflow's message about a request without a response.
_UNANSWERED = re.compile(r"API request to \S+ failed with (timeout )?exception")
# Errors of the machine, which are temporary or which the user can fix: disk, limits, permissions.
# A missing or damaged file is not among them.
_OF_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOLCK, errno.EAGAIN),
    *(errno.EACCES, errno.EPERM, errno.EBUSY, errno.EINTR),
}
_WORDS_OF_MACHINE = ("No space left", "Too many open files", "Input/output error", "temporary dir")
# MLflow's message about a response with an error status.
_STATUS = re.compile(r"\AAPI request to \S+(?: \S+)? failed with error code (\d{3})\b")


class ContentError(Exception):
    """Raised if an entry can never be delivered, to any store."""


@contextmanager
def as_content_error() -> Iterator[None]:
    """Convert errors of the body, which reads or prepares an entry, to :class:`ContentError`.

    Errors of the machine are not converted, because the entry may be delivered later.
    """
    try:
        yield
    except ContentError:
        raise
    except Exception as error:  # e.g. of Pillow, of a loader, or for an entry of another version
        if is_of_machine(error):
            raise
        raise ContentError(f"{type(error).__name__}: {error}") from error


def is_of_machine(error: BaseException | None) -> bool:
    """Return True if an error or its cause is about this machine: disk, memory, limits.

    Libraries raise their own errors with the system's message.
    """
    while error is not None:
        if is_out_of_memory(error) or any(words in str(error) for words in _WORDS_OF_MACHINE):
            return True
        if isinstance(error, OSError) and error.errno in _OF_MACHINE:
            return True
        error = error.__cause__ or error.__context__
    return False


def may_reject_content(error: BaseException) -> bool:
    """Return True if MLflow may have rejected the content of a request.

    A response of a proxy has only a status, but no error code of MLflow. A database's error counts
    only if it is about values. Others are temporary: a read-only standby server, a row that another
    user added at the same time, a lock, a lost connection.
    """
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException) or error.error_code not in _CONTENT:
        return False
    message = str(error)
    database = _OF_DATABASE.search(message)
    if database:
        return database["kind"] in _OF_DATA
    return "API request to" not in message


def rejects(error: BaseException, *content: str) -> bool:
    """Return True if MLflow rejected a request and its message quotes one of these contents."""
    if not may_reject_content(error):
        return False
    message = str(error)
    quoted = (
        f"{mark}{form[:100]}"
        for value in content
        if value
        for form in (value, json.dumps(value)[1:-1])
        for mark in "'\""
    )
    return bool(_PART.search(message)) or any(form in message for form in quoted)


def is_gone(error: BaseException, *runs: str) -> bool:
    """Return True if an error means that one of these runs was deleted.

    The message must contain the run's id, because other objects can be missing, too.
    """
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    if not any(run and run in error.message for run in runs):
        return False
    return error.error_code == _GONE or bool(_TRASHED.search(error.message))


def exists_already(error: BaseException) -> bool:
    """Return True if an object could not be created because it exists."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_ALREADY_EXISTS"


def is_too_large(error: BaseException) -> bool:
    """Return True if a server rejected a file or request because of its size or type."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    stated = _STATUS.search(str(error))
    return status in _TOO_LARGE or bool(stated and int(stated[1]) in _TOO_LARGE)


def is_access_denied(error: BaseException) -> bool:
    """Return True if a server denied access, or received too many requests."""
    from mlflow.exceptions import MlflowException

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, MlflowException):
        status = error.get_http_status_code()
    return status in _NO_ACCESS


def has_no_response(error: BaseException) -> bool:
    """Return True if a request had no response."""
    return bool(_UNANSWERED.search(str(error)))
