"""Observer of long work."""

from atelier.core.progress import Progress


class Events:
    """Observer whose methods do nothing; a subclass overrides those that it needs."""

    def on_progress(self, progress: Progress) -> None:
        """Receive the work done so far."""

    def warn(self, *warnings: str) -> None:
        """Receive sentences about problems that do not end the work."""
