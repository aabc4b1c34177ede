"""Conversion of names and values to ones that MLflow accepts.

A legal name is returned unchanged. Any other name keeps its legal characters and gets a checksum of
the original name, so that different names stay different.
"""

import hashlib
import re
from pathlib import PurePosixPath

KEY_LENGTH = 250  # of a metric, parameter or tag
PARAMETER_LENGTH = 6000
TAG_LENGTH = 8000
# MLflow validates keys with `\w`, which also accepts letters of other alphabets.
_NOT_IN_KEY = re.compile(r"[^\w.\-:/ ]")
# The server decodes percent signs and rejects `#`; a URL ends at `?`.
_NOT_IN_PATH = re.compile(r"[^\w.\-+~=@,()/ ]")
_NOT_IN_IMAGE_KEY = re.compile(r"[^a-zA-Z0-9_.\-/ ]")
_NOT_IN_TITLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NOT_IN_FOLDER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/:]")
_NOT_IN_MODEL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/:'\"`\\]")
_NOT_IN_TEXT = re.compile(
    r"[\x00\ud800-\udfff]"
)  # databases reject NUL, UTF-8 rejects lone surrogates
# MLflow uses this prefix for temporary files, and rejects it elsewhere.
_RESERVED = ".mlflow"
_PART_BYTES = 150  # of a file name, of the 255 that file systems allow


def key(name: str) -> str:
    """Return a legal name of a metric, parameter or tag."""
    return _checked(name, _without_steps(_NOT_IN_KEY.sub("_", name)), KEY_LENGTH)


def image_key(name: str) -> str:
    """Return a legal name of a series of images."""
    return _checked(name, _without_steps(_NOT_IN_IMAGE_KEY.sub("_", name)), 100)


def artifact_path(path: str) -> str:
    """Return a legal relative path of an artifact; its suffix is kept."""
    parts = _without_steps(_NOT_IN_PATH.sub("_", path)).split("/")
    parts = [f"_{part}" if part.startswith(_RESERVED) else part for part in parts]
    legal = "/".join(_cut(part, _PART_BYTES) for part in parts)
    if legal == path and len(path) <= 500:
        return path
    last = PurePosixPath(legal)
    ending = last.suffix if len(last.suffix) <= 10 else ""
    folder = f"{str(last.parent)[:200].rstrip('/ ')}/" if len(parts) > 1 else ""
    stem = _cut(last.name.removesuffix(ending), 100)
    return f"{folder}{stem}-{_checksum(path)}{ending}"


def run_name(name: str) -> str:
    """Return a legal name of a run."""
    return _checked(name, _NOT_IN_TITLE.sub("_", name).strip(), 250)


def experiment_name(name: str) -> str:
    """Return a legal name of an experiment, which also names a folder in ``mlruns/``."""
    legal = _NOT_IN_FOLDER.sub("_", name).strip()
    return _checked(name, "_" + legal[1:] if legal.startswith(".") else legal, 200, 200)


def model_name(name: str) -> str:
    """Return a legal name of a registered model, which can be quoted in a search."""
    legal = _NOT_IN_MODEL.sub("_", name).strip()
    return _checked(name, "_" + legal[1:] if legal.startswith(".") else legal, 200)


def parameter(value: str) -> str:
    """Return a legal value of a parameter, shortened if necessary."""
    return _shortened(text(value), PARAMETER_LENGTH)


def tag(value: str) -> str:
    """Return a legal value of a tag, shortened if necessary."""
    return _shortened(text(value), TAG_LENGTH)


def text(value: str) -> str:
    """Return text in which characters that databases reject are replaced."""
    return _NOT_IN_TEXT.sub("\ufffd", value)


def _without_steps(name: str) -> str:
    """Remove the parts `.` and empty ones of a path, and replace `..`."""
    parts = [part.strip() for part in name.split("/")]
    parts = ["__" if part == ".." else part for part in parts if part not in ("", ".")]
    joined = "/".join(parts)
    return "__" + joined[2:] if joined.startswith("..") else joined


def _checked(name: str, legal: str, length: int, size: int = 0) -> str:
    """Return ``legal`` if it equals the name; otherwise shorten it and add the name's checksum."""
    fits = len(legal) <= length and (not size or len(legal.encode()) <= size)
    if legal and legal == name and fits:
        return name
    checksum = _checksum(name)
    start = legal[: length - len(checksum) - 1]
    if size:
        start = _cut(start, size - len(checksum) - 1)
    return f"{start.rstrip('/ ') or '_'}-{checksum}"


def _checksum(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _cut(part: str, size: int) -> str:
    """Cut a name to at most ``size`` bytes in UTF-8."""
    return part.encode()[:size].decode("utf-8", "ignore").strip() or "_"


def _shortened(value: str, length: int) -> str:
    return value if len(value) <= length else value[: length - 6] + " [cut]"
