"""Data sets that are had by name, SOURCE:NAME. A module a source: it says what pictures there are, they are written here."""

import io
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sslviz.data.folder import LEFT_BEHIND, PICTURES, SPLITS
from sslviz.data.images import FORMATS
from sslviz.errors import InputError, in_one_line
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


@dataclass(frozen=True)
class Source:
    """`open(name there, folder for downloads)` raises InputError for what cannot be had · known: the names there are, () where
    nobody can list them · form: of a name."""

    open: Callable[[str, Path], Found]
    known: tuple[str, ...]
    form: str


SOURCES: Registry[Source] = Registry("source of data sets", __name__)


def split_source(text: str) -> tuple[str, str] | None:
    """("torchvision", "CIFAR10") of "torchvision:CIFAR10"; None for anything that is not had by name."""
    source, colon, name = text.partition(":")
    return (source, name) if colon and name and source in SOURCES.names() else None


def cannot_be_had(what: str, error: Exception) -> InputError:
    """What is said where a library could not bring something, in its own words."""
    reason = in_one_line(error, 300)
    return InputError(
        f"{what} could not be downloaded ({reason}). Is this machine online, and the name right? Behind a proxy: "
        "set HTTPS_PROXY. Images from elsewhere: sslviz data add NAME FOLDER"
    )


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
                link(content, place / f"{name}{content.suffix.lower()}")
            else:
                (place / f"{name}{_ending(content)}").write_bytes(content)
            progress.advance()
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _folder_name(label: str, taken: set[str]) -> str:
    """A class name as a folder's: one level, seen, not read as a picture or a split, and no second class's on any disk."""
    one_level = "".join("-" if c in "/\\\0" else c for c in label).strip().lstrip(".")
    name = one_level.encode(errors="ignore")[:200].decode(errors="ignore") or "class"
    if os.path.splitext(name)[1].lower() in PICTURES or name.lower() in LEFT_BEHIND.union(*SPLITS.values()):
        name += "-"
    while name.casefold() in {other.casefold() for other in taken}:
        name += "-"
    return name


def link(file: Path, place: Path) -> None:
    """The same file at another place, without its bytes twice where the disk can."""
    file = file.resolve()
    try:
        os.link(file, place)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(file, place)


def _ending(content: bytes) -> str:
    """Of the format it is in; .jpg for what nothing can read, so that it is listed as left out later."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            ending = f".{(image.format or '').lower()}"
    except Exception:  # see images.decode
        return ".jpg"
    return ending if ending in PICTURES else ".jpg"
