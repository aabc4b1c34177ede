"""Classification of MLflow's errors: content that it rejects, or an attempt to repeat later."""

import errno
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

from atelier.core.errors import is_out_of_memory

_CONTENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_GONE = "RESOURCE_DOES_NOT_EXIST"
_TRASHED = re.compile(r"must be in the '?active'? (lifecycle_stage|state)", re.IGNORECASE)
# MLflow's words for a part of a request whose value it does not repeat.
_PART = re.compile(r"(metrics|params|tags)\[\d+\]|exceeds the maximum length")
# A database's error as SQLAlchemy formats it, which MLflow passes on with the statement and its
# values. A value may contain the same words, so only the start and the end of the message count.
_OF_DATABASE = re.compile(
    r"\A(?:[A-Z_]+: )?(?:\(raised as a result of [^()]*\)\s*)?\((?:\w+\.)+(?P<kind>\w+)\)"
    r"|\(Background on this error at: https://sqlalche\.me/\S+\)\s*\Z"
)
# Those of them that are about the values: of SQLSTATE's class 22, and two constraints.
_OF_DATA = {
    *("DataError", "StringDataRightTruncation", "NumericValueOutOfRange"),
    *("NullValueNotAllowed", "InvalidParameterValue", "InvalidTextRepresentation"),
    *("UntranslatableCharacter", "CharacterNotInRepertoire", "NotNullViolation", "CheckViolation"),
}
# Statuses of an upload that sending the same file again cannot change.
_TOO_LARGE = {413, 414, 415, 431}
# A wrong password, a missing permission, too many requests: no file is the reason.
_NO_ACCESS = {401, 403, 407, 429}
# MLflow's words for a request without an answer of the server.
_UNANSWERED = re.compile(r"API request to \S+ failed with (timeout )?exception")
# The machine's own errors, which pass or which the user removes: of the disk, of its limits, of
# permissions. A file that is missing or damaged is none of them.
_OF_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOLCK, errno.EAGAIN),
    *(errno.EACCES, errno.EPERM, errno.EBUSY, errno.EINTR),
}
_WORDS_OF_MACHINE = ("No space left", "Too many open files", "Input/output error", "temporary dir")
# MLflow's words for an answer that is not its own.
_STATUS = re.compile(r"\AAPI request to \S+(?: \S+)? failed with error code (\d{3})\b")


class ContentError(Exception):
    """Raised if an entry cannot be delivered for a reason of its own, whatever the store does."""


@contextmanager
def as_content_error() -> Iterator[None]:
    """Turn an error of reading or preparing an entry into a :class:`ContentError`.

    Errors of the machine are raised as they are, since the same entry may be delivered later.
    """
    try:
        yield
    except ContentError:
        raise
    except Exception as error:  # of Pillow, of a loader, of an entry of another version
        if is_of_machine(error):
            raise
        raise ContentError(f"{type(error).__name__}: {error}") from error


def is_of_machine(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, is about this machine: disk, memory, limits.

    Libraries raise errors of their own with the system's words.
    """
    while error is not None:
        if is_out_of_memory(error) or any(words in str(error) for words in _WORDS_OF_MACHINE):
            return True
        if isinstance(error, OSError) and error.errno in _OF_MACHINE:
            return True
        error = error.__cause__ or error.__context__
    return False


def may_reject_content(error: BaseException) -> bool:
    """Return whether an error is MLflow's own answer to the content of a request.

    A page of a proxy has a status only, and neither an error code nor a message of MLflow. A
    database's error counts only if it is about values: a standby server that is read-only, a row
    that a colleague added at the same moment, a lock or a lost connection may pass.
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
    """Return whether MLflow's answer names one of these contents as what it does not accept."""
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
    """Return whether MLflow says that one of these runs was deleted.

    Other things may be missing as well, such as a registered model.
    """
    from mlflow.exceptions import MlflowException

    if not isinstance(error, MlflowException):
        return False
    if not any(run and run in error.message for run in runs):
        return False
    return error.error_code == _GONE or bool(_TRASHED.search(error.message))


def exists_already(error: BaseException) -> bool:
    """Return whether MLflow says that what should be created is there."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code == "RESOURCE_ALREADY_EXISTS"


def is_too_large(error: BaseException) -> bool:
    """Return whether a server rejects a file or a request for its size or kind."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    stated = _STATUS.search(str(error))
    return status in _TOO_LARGE or bool(stated and int(stated[1]) in _TOO_LARGE)


def is_access_denied(error: BaseException) -> bool:
    """Return whether a server refuses the user, or the number of requests."""
    from mlflow.exceptions import MlflowException

    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None and isinstance(error, MlflowException):
        status = error.get_http_status_code()
    return status in _NO_ACCESS


def has_no_response(error: BaseException) -> bool:
    """Return whether a request got no answer, or none of MLflow."""
    return bool(_UNANSWERED.search(str(error)))
