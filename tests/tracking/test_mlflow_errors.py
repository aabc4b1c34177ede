"""Classification of errors: those of the content, and those of the database, server or machine."""

import errno
import os

import pytest
from mlflow.exceptions import MlflowException, RestException
from PIL import UnidentifiedImageError
from requests import HTTPError, Response
from sqlalchemy.exc import DBAPIError, StatementError

from atelier.tracking.mlflow_errors import (
    ContentError,
    as_content_error,
    is_access_denied,
    may_reject_content,
    rejects,
)

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
KEY = "quality/loss"
DATA_ERRORS = ["StringDataRightTruncation", "NumericValueOutOfRange", "CharacterNotInRepertoire"]
TEMPORARY_ERRORS = [
    *("ReadOnlySqlTransaction", "UniqueViolation", "ForeignKeyViolation", "LockNotAvailable"),
    *("DeadlockDetected", "AdminShutdown", "InsufficientPrivilege", "UndefinedTable"),
]


def rest_error(kind: str, prefix: str = "") -> RestException:
    """Return the error that MLflow's client raises if a statement fails on the server."""
    cause = getattr(psycopg.errors, kind)("the database's own words")
    statement = "INSERT INTO metrics (key) VALUES (%(key)s)"
    error = DBAPIError.instance(statement, {"key": KEY}, cause, psycopg.Error)
    assert isinstance(error, StatementError)
    if prefix:
        error.add_detail(prefix)
    return RestException({"error_code": "BAD_REQUEST", "message": str(error)})


@pytest.mark.parametrize("kind", TEMPORARY_ERRORS)
def test_temporary_database_error_rejects_nothing(kind: str) -> None:
    assert f"'{KEY}'" in str(rest_error(kind)), "the statement's values are in the error"
    assert not may_reject_content(rest_error(kind))
    assert not rejects(rest_error(kind), KEY)


@pytest.mark.parametrize("kind", DATA_ERRORS)
def test_database_error_about_a_value_rejects_it(kind: str) -> None:
    assert rejects(rest_error(kind), KEY)
    assert rejects(rest_error(kind, "raised as a result of Query-invoked autoflush; see docs"), KEY)
    assert not rejects(rest_error(kind), "another.metric")


@pytest.mark.parametrize("value", ["(psycopg.errors.ReadOnlySqlTransaction)", "(a.b) [SQL: x]"])
def test_value_that_looks_like_a_database_error_is_rejected(value: str) -> None:
    message = f"Invalid value '{value}' for parameter 'key' supplied"
    error = RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": message})
    assert rejects(error, value)


def test_all_kinds_of_access_errors_are_recognized() -> None:
    response = Response()
    response.status_code = 429
    assert is_access_denied(HTTPError("busy", response=response))
    assert is_access_denied(RestException({"error_code": "PERMISSION_DENIED", "message": "no"}))
    assert not is_access_denied(RestException({"error_code": "BAD_REQUEST", "message": "no"}))
    assert not is_access_denied(MlflowException("no answer"))
    response.status_code = 413
    assert not is_access_denied(HTTPError("large", response=response))


@pytest.mark.parametrize(
    "error",
    [
        *(
            OSError(number, os.strerror(number))
            for number in (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.ENOMEM, errno.EACCES)
        ),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("write failed: No space left on device"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ],
    ids=str,
)
def test_error_of_the_machine_rejects_no_content(error: Exception) -> None:
    with pytest.raises(type(error)), as_content_error():
        raise error
    with pytest.raises(ValueError, match="damaged"), as_content_error():
        raise ValueError("damaged") from error


@pytest.mark.parametrize(
    "error",
    [
        *(UnidentifiedImageError("no picture"), OSError("image file is truncated")),
        *(FileNotFoundError(errno.ENOENT, "no such file", "a.png"), KeyError("stage")),
    ],
    ids=str,
)
def test_error_of_the_content_rejects_it(error: Exception) -> None:
    with pytest.raises(ContentError), as_content_error():
        raise error
