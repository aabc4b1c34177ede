"""What a disk may answer, said in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What torch and OpenCV say of a processor's and a GPU's memory, and the system of a file's.
_OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "Insufficient memory")


class AtelierError(Exception):
    """A fault that a user can mend, told in one sentence.

    The sentence says what was got, what is needed and what to do. It is shown as it
    stands, without a traceback, and the program ends with exit code 1. Faults of the
    program itself keep their own exception and their traceback.
    """


class PeerLostError(AtelierError):
    """Another process of the same work ended, which tells of it itself."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the machine's or a GPU's, is too small."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DISK_FAILED = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOLCK}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def os_errors_as_sentences(target: Path) -> Iterator[None]:
    """Say in a sentence what a disk answers while the body writes ``target``.

    Raises:
        AtelierError: the disk is full, something may not be read or written, or a disk (or the
            network that it is reached by) fails half-way.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise AtelierError(
                f"there is no room to write {target} ({error.strerror}); free some space and"
                " run again, what was there before is untouched."
            ) from None
        if error.errno in _NOT_ALLOWED:
            raise AtelierError(
                f"{error.filename or target} cannot be read or written ({error.strerror}); change"
                " its permissions and run again."
            ) from None
        if error.errno in _DISK_FAILED:
            raise AtelierError(
                f"a disk failed while {error.filename or target} was read or written"
                f" ({error.strerror}); check the disks and network folders in use and run again,"
                " what was there before is untouched."
            ) from None
        raise
