"""How long work tells the world where it is, and learns that it should stop."""

from pathlib import Path
from typing import Any


class Progress:
    """Says nothing and is never cancelled: what a library call gets. A job's runner hands in one that writes state.json."""

    folder: Path | None = None
    """Where a run may keep files of its own (checkpoints, metrics); None for a library call."""

    def stage(self, name: str, total: int = 0) -> None:
        """A new part of the work begins; `total` counts its units, 0 when unknown."""

    def advance(self, done: int = 1) -> None:
        """`done` more units of the current part are finished. Raises Cancelled when somebody pressed stop."""

    def note(self, **facts: Any) -> None:
        """Facts to show beside the bar: device, images per second, loss, estimates."""

    def warn(self, sentence: str) -> None:
        """Something the user should read; kept with the run."""

    def check(self) -> None:
        """Raise Cancelled when somebody pressed stop."""
