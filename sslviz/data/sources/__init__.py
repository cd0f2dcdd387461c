"""Data sets that are had by name, SOURCE:NAME. A module a source: it says what pictures there are, they are written here."""

import io
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sslviz.data.folder import PICTURES, SPLITS
from sslviz.progress import Progress
from sslviz.registry import Registry


class Picture(NamedTuple):
    """One sample: its split ("" where the source has none), class (None unknown), a name of its own, and an encoded picture or
    the file that holds it."""

    split: str
    label_name: str | None
    name: str
    content: bytes | Path


@dataclass(frozen=True)
class Found:
    """What a source has under a name: how many pictures, the pictures, a folder of masks, and remarks (more may come with the
    last picture)."""

    n: int
    pictures: Iterable[Picture]
    masks: Path | None = None
    notes: list[str] = field(default_factory=list)


SOURCES: Registry[Callable[[str, Path], Found]] = Registry("source of data sets", __name__)
"""Name -> open(name there, folder for downloads) -> Found. Raises InputError for a name that is not there."""


def split_source(text: str) -> tuple[str, str] | None:
    """("torchvision", "CIFAR10") of "torchvision:CIFAR10"; None for anything that is not had by name."""
    source, colon, name = text.partition(":")
    return (source, name) if colon and name and source in SOURCES.names() else None


def write_pictures(found: Found, folder: Path, progress: Progress) -> None:
    """Write them as folder/SPLIT/CLASS/NAME.ENDING; the folder is there when all of them are, and not before."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    folders: dict[str, str] = {}
    progress.stage("writing pictures", found.n)
    try:
        for split, label, name, content in found.pictures:
            if label is not None and label not in folders:
                folders[label] = _folder_name(label, set(folders.values()))
            place = part / split / (folders[label] if label is not None else "")
            place.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                _link(content, place / f"{name}{content.suffix.lower()}")
            else:
                (place / f"{name}{_ending(content)}").write_bytes(content)
            progress.advance()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _folder_name(label: str, taken: set[str]) -> str:
    """A class name as a folder's: one level, seen, not read as a picture or a split, and no second class's."""
    name = "".join("-" if c in "/\\\0" else c for c in label).strip().lstrip(".")[:120] or "class"
    if os.path.splitext(name)[1].lower() in PICTURES or any(name.lower() in names for names in SPLITS.values()):
        name += "-"
    while name in taken:
        name += "-"
    return name


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(file, place)


def _ending(content: bytes) -> str:
    """Of the format it is in; .jpg for what nothing can read, so that it is listed as left out later."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            ending = f".{(image.format or '').lower()}"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ".jpg"
    return ending if ending in PICTURES else ".jpg"
