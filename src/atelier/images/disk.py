"""What a disk may answer, said in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier.errors import AtelierError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FAILED = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ENOLCK}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_faults(target: Path) -> Iterator[None]:
    """Say in a sentence what a disk answers while the body writes ``target``.

    Raises:
        AtelierError: the disk is full, something may not be read or written, or a disk (or the
            network that it is reached by) fails half-way.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise AtelierError(
                f"there is no room to write {target} ({error.strerror}); free some space and"
                " run again, what was there before is untouched."
            ) from None
        if error.errno in _FORBIDDEN:
            raise AtelierError(
                f"{error.filename or target} cannot be read or written ({error.strerror}); change"
                " its permissions and run again."
            ) from None
        if error.errno in _FAILED:
            raise AtelierError(
                f"a disk failed while {error.filename or target} was read or written"
                f" ({error.strerror}); check the disks and network folders in use and run again,"
                " what was there before is untouched."
            ) from None
        raise
