"""Pictures for the browser: thumbnails out of their packs, and whole pictures made upright, by row and never by path."""

import io
import threading
from functools import lru_cache
from typing import Any

import pandas as pd

from sslviz.data import dataset as datasets
from sslviz.data import thumbs
from sslviz.errors import NotFound
from sslviz.store.files import read_json
from sslviz.store.workspace import Workspace

_lock = threading.Lock()


def thumb_file(dataset: str, row: int) -> tuple[bytes, str]:
    """(content, media type) of the thumbnail of the sample in this row of samples.parquet. Raises NotFound."""
    workspace = Workspace()
    table = _thumb_table(str(workspace.root), dataset, _stamp(workspace, dataset))
    line: Any = table.iloc[row] if row < len(table) else None
    if line is None or pd.isna(line["pack"]):
        return picture_file(dataset, row, side=128)
    content = thumbs.read_thumb(workspace.dataset(dataset), line["pack"], int(line["offset"]), int(line["size"]))
    return content, _media_type(content)


def picture_file(dataset: str, row: int, side: int = 1024) -> tuple[bytes, str]:
    """(content, media type) of the picture itself, upright, longer side at most `side`. Raises NotFound, BadImage."""
    found = stored(Workspace(), dataset)
    if row >= len(found.samples) or found.root is None:
        raise NotFound(f"no picture {row} in {dataset}.")
    return upright((found.root / str(found.samples["sample_id"].iat[row])).read_bytes(), side)


def stored(workspace: Workspace, dataset: str) -> datasets.Dataset:
    """The data set as it is stored now, read once however many of its pictures are asked for. Raises NotFound."""
    folder = workspace.existing_dataset(dataset)
    stamps = tuple((folder / name).stat().st_mtime_ns for name in ("samples.parquet", "dataset.json"))
    with _lock:
        return _read_dataset(str(workspace.root), dataset, stamps)


@lru_cache(maxsize=2)
def _read_dataset(root: str, dataset: str, stamps: tuple[int, ...]) -> datasets.Dataset:
    return datasets.load(Workspace(root), dataset)


def upright(content: bytes, side: int = 1024) -> tuple[bytes, str]:
    """(content, media type) of a picture file as a browser shows it: upright, longer side at most `side`. Raises BadImage."""
    from PIL import Image

    from sslviz.data.images import decode

    picture = decode(content)
    if picture.plain and max(picture.pixels.shape[1:]) <= side:
        return content, _media_type(content)
    image = Image.fromarray(picture.pixels.permute(1, 2, 0).numpy())
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue(), "image/jpeg"


def fingerprint_of(dataset: str) -> str:
    """The data set's fingerprint now. Raises NotFound."""
    return str(read_json(Workspace().existing_dataset(dataset) / "dataset.json")["fingerprint"])


def _stamp(workspace: Workspace, dataset: str) -> tuple[int, int]:
    folder = workspace.existing_dataset(dataset)
    packs = folder / "thumbs"
    return (folder / "samples.parquet").stat().st_mtime_ns, packs.stat().st_mtime_ns if packs.exists() else 0


def _thumb_table(root: str, dataset: str, stamp: tuple[int, int]) -> pd.DataFrame:
    with _lock:
        return _read_thumb_table(root, dataset, stamp)


@lru_cache(maxsize=4)
def _read_thumb_table(root: str, dataset: str, stamp: tuple[int, int]) -> pd.DataFrame:
    """Pack, offset and size for each row of samples.parquet; missing where the picture has changed since."""
    folder = Workspace(root).dataset(dataset)
    samples = datasets.load(Workspace(root), dataset).samples[["sample_id", "sha256"]]
    found = samples.merge(thumbs.index(folder), on=["sample_id", "sha256"], how="left")
    return found[["pack", "offset", "size"]]


def _media_type(content: bytes) -> str:
    if content.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/webp"
