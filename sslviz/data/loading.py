"""Pictures of a data set, read and decoded ahead of their use by a few threads (decoders release the GIL)."""

import hashlib
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from sslviz.data.images import BadImage, decode, fit, thumbnail
from sslviz.errors import UNREAD
from sslviz.progress import Progress

_MOST_BYTES = 1 << 30
"""Of a picture's file."""
Item = TypeVar("Item")
Made = TypeVar("Made")


class Loaded(NamedTuple):
    """What one read of a file gives: model input uint8[3, size, size] or None with a reason, and facts about the file."""

    pixels: torch.Tensor | None
    sha256: str
    width: int
    height: int
    thumb: bytes
    remark: str
    error: str


def read_picture(path: Path, resize: int, size: int, *, thumb: bool = True) -> Loaded:
    """Read a file once: digest, size, thumbnail and the encoder's input. A bad file gives its reason, never an exception."""
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            return Loaded(None, "", 0, 0, b"", "", "a folder, not a picture")
        if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST_BYTES:
            return Loaded(None, "", 0, 0, b"", "", "no regular file, or one of more than 1 GB")
        content = path.read_bytes()
    except OSError as error:
        return Loaded(None, "", 0, 0, b"", "", f"{UNREAD} ({error.strerror})")
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        picture = decode(content)
        _, height, width = picture.pixels.shape
        small = thumbnail(picture, content) if thumb else b""
        return Loaded(fit(picture.pixels, resize, size), sha256, width, height, small, picture.remark, "")
    except BadImage as error:
        return Loaded(None, sha256, 0, 0, b"", "", str(error))


def ahead(make: Callable[[Item], Made], items: Iterable[Item], workers: int, window: int) -> Iterator[Made]:
    """`map(make, items)` in order, computed by `workers` threads at most `window` items ahead of the reader."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) >= window:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def load_pixels(
    root: Path, sample_ids: list[str], size: int, workers: int, progress: Progress
) -> tuple[torch.Tensor, dict[str, str]]:
    """All pictures as uint8[N, 3, size, size], and sample_id -> reason of the files that were left out."""
    pixels = torch.empty(len(sample_ids), 3, size, size, dtype=torch.uint8)
    bad: dict[str, str] = {}
    kept = 0
    progress.stage("reading images", len(sample_ids))
    pictures = ahead(lambda s: read_picture(root / s, size, size, thumb=False), sample_ids, workers, 64 * workers)
    for sample_id, loaded in zip(sample_ids, pictures, strict=True):
        if loaded.pixels is None:
            bad[sample_id] = loaded.error
        else:
            pixels[kept] = loaded.pixels
            kept += 1
        progress.advance()
    return pixels[:kept], bad
