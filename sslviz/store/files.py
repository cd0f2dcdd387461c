"""Files that are whole or not there: everything is written beside its place and renamed into it."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sslviz.errors import Busy, InputError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renamed onto it when the block ends well, removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, whole or not at all."""
    with whole_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file of ours. Raises InputError when it is not JSON (edited or damaged)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: not JSON. Remove it and run the command that made it again.") from None


def write_table(path: Path, table: "pd.DataFrame") -> None:
    """Write a table as Parquet, whole or not at all."""
    with whole_file(path) as beside:
        table.to_parquet(beside, index=False)


def read_table(path: Path, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read a Parquet table of ours. Raises InputError when it is damaged."""
    import pandas as pd  # slow to import, and the command line reads JSON only

    try:
        return pd.read_parquet(path, columns=columns)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise InputError(f"{path} is damaged ({error}). Remove it and run the command that made it again.") from None


@contextmanager
def only_writer(target: Path, what: str, who: str = "", *, wait: bool = False) -> Iterator[None]:
    """Hold the one lock of `target` while the block runs.

    The lock is the operating system's (flock), so a holder that dies leaves none behind. Raises Busy naming the holder,
    unless `wait` (for work of a moment).
    """
    lock = target.with_name(f".{target.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise Busy(f"{what} is being written by {holder}. Wait for it (sslviz runs list) or cancel it.") from None
        handle.truncate(0)
        handle.write(f"{who or 'a Python session'}, process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def is_held(lock: Path) -> bool:
    """Whether a living process holds the flock on this file."""
    try:
        with lock.open("a", encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
