"""How long work tells the world where it is, and learns that it should stop."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")


class Progress:
    """Says nothing and is never cancelled: what a library call gets. A job's runner hands in one that writes state.json."""

    folder: Path | None = None
    """Where a run may keep files of its own (checkpoints, metrics); None for a library call."""

    def stage(self, name: str, total: int = 0) -> None:
        """A new part of the work begins; `total` counts its units, 0 when unknown."""

    def advance(self, done: int = 1) -> None:
        """`done` more units of the current part are finished. Raises Cancelled when somebody pressed stop."""

    def note(self, **facts: Any) -> None:
        """Facts to show beside the bar: device, images per second, loss, estimates; None takes a fact away."""

    def warn(self, sentence: str) -> None:
        """Something the user should read; kept with the run."""

    def check(self) -> None:
        """Raise Cancelled when somebody pressed stop."""


class Prefixed(Progress):
    """Another's progress; what is being worked at stands before its stages and warnings."""

    def __init__(self, progress: Progress, prefix: str) -> None:
        self.progress, self.folder, self.prefix = progress, progress.folder, prefix
        self.advance, self.note, self.check = progress.advance, progress.note, progress.check  # type: ignore[method-assign]

    def warn(self, sentence: str) -> None:
        self.progress.warn(f"{self.prefix}: {sentence}")

    def stage(self, name: str, total: int = 0) -> None:
        self.progress.stage(f"{self.prefix}: {name}", total)


def while_checking(work: Callable[[], Made], progress: Progress) -> Made:
    """Run what cannot be interrupted in a thread, so that Cancel is heard at once; cancelled, the thread is left behind."""
    done: list[Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        progress.check()
    if failed:
        raise failed[0]
    return done[0]
