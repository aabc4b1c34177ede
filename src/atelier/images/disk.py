"""What a disk may answer, said in one sentence."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier.errors import AtelierError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_faults(target: Path) -> Iterator[None]:
    """Turn a full or forbidden disk, met while the body writes ``target``, into a sentence.

    Raises:
        AtelierError: the disk is full, or something may not be read or written.
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
        raise
