"""The one kind of error that is the user's to mend."""


class AtelierError(Exception):
    """A fault that a user can mend, told in one sentence.

    The sentence says what was got, what is needed and what to do. It is shown as it
    stands, without a traceback, and the program ends with exit code 1. Faults of the
    program itself keep their own exception and their traceback.
    """
