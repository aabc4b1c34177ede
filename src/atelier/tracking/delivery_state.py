"""Progress of the delivery of one outbox."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from atelier.core.files import write_text


@dataclass(frozen=True)
class DeliveryState:
    """Progress of a delivery, saved in ``delivered.json``.

    Attributes:
        offset: bytes of the outbox that are delivered.
        run: id of the run.
        parent: id of the pipeline's run; empty if there is none.
        stage: name of the stage; empty for a pipeline's outcome.
        experiment: name of the experiment.
        ended: True if the last entry is delivered.
        logged: last step of each metric of a resumed run.
        attempts: failed deliveries of the entry at ``offset``.
    """

    offset: int = 0
    run: str = ""
    parent: str = ""
    stage: str = ""
    experiment: str = ""
    ended: bool = False
    logged: dict[str, int] | None = None
    attempts: int = 0

    @classmethod
    def load(cls, file: Path) -> "DeliveryState":
        """Load the progress of an earlier delivery.

        If a full disk or a crash truncated the file, everything is delivered again.
        """
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(file.read_text("utf-8")))
        return cls()

    def save(self, file: Path) -> None:
        """Write the progress to a file."""
        write_text(file, json.dumps(asdict(self)))
