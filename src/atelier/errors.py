"""The one kind of error that is the user's to mend, and what tells a want of memory."""

# What torch and OpenCV say of a processor's and a GPU's memory, and the system of a file's.
_NO_MEMORY = ("allocate memory", "not enough memory", "out of memory", "Insufficient memory")


class AtelierError(Exception):
    """A fault that a user can mend, told in one sentence.

    The sentence says what was got, what is needed and what to do. It is shown as it
    stands, without a traceback, and the program ends with exit code 1. Faults of the
    program itself keep their own exception and their traceback.
    """


class PeerGoneError(AtelierError):
    """Another process of the same work ended, which tells of it itself."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the machine's or a GPU's, is too small."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)
