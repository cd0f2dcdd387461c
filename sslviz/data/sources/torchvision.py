"""Data sets that torchvision downloads, checks (MD5) and unpacks."""

import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from sslviz.data.sources import SOURCES, Found, Picture, Source, cannot_be_had
from sslviz.errors import unknown_name

DATASETS: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": {"train": {"train": True}, "test": {"train": False}},
    "CIFAR100": {"train": {"train": True}, "test": {"train": False}},
    "STL10": {"train": {"split": "train"}, "test": {"split": "test"}},
    "Imagenette": {"train": {"split": "train", "size": "320px"}, "test": {"split": "val", "size": "320px"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Flowers102": {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
}
"""Name at torchvision -> our split -> what its class is asked for."""
MASKS = {"OxfordIIITPet": "oxford-iiit-pet/annotations/trimaps"}
"""Where masks come with the pictures: their folder among the downloads."""
_ARCHIVES = (".tgz", ".tar.gz", ".zip", ".mat")
REMARKS = {"STL10": "its 100,000 images without labels are left out"}


def open_torchvision(name: str, downloads: Path) -> Found:
    """One of `DATASETS`; downloaded to downloads/torchvision/NAME where it is not there yet."""
    from torchvision import datasets

    if name not in DATASETS:
        raise unknown_name("torchvision data set", name, DATASETS, "")
    root = downloads / "torchvision" / name
    root.mkdir(parents=True, exist_ok=True)
    kind, whole = getattr(datasets, name), root / "whole"
    loader = {"loader": Path} if "loader" in inspect.signature(kind.__init__).parameters else {}

    def opened(download: bool) -> dict[str, Any]:
        return {split: kind(root=root, **asked, **loader, download=download) for split, asked in DATASETS[name].items()}

    try:
        if whole.exists():
            found = opened(download=False)
    except (OSError, RuntimeError, ValueError):  # somebody has taken parts of it away
        whole.unlink()
    try:
        if not whole.exists():
            _remove_unpacked(root)
            found = opened(download=True)
            whole.touch()
    except (OSError, RuntimeError, ValueError) as error:
        raise cannot_be_had(f"torchvision:{name}", error) from None
    masks = root / MASKS[name] if name in MASKS else None
    return Found(sum(map(len, found.values())), _pictures(found), masks, [REMARKS[name]] if name in REMARKS else [])


def _remove_unpacked(root: Path) -> None:
    """What a cut left unpacked would pass for the whole; archives are checked by their digests and stay."""
    for path in [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(_ARCHIVES)]:
        path.unlink()
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


SOURCES.register("torchvision")(Source(open_torchvision, tuple(DATASETS), "NAME"))


def _pictures(found: dict[str, Any]) -> Iterator[Picture]:
    for split, each in found.items():
        titles = [title if isinstance(title, str) else title[0] for title in each.classes]  # Imagenette: with synonyms
        files = getattr(each, "_images", None)  # Pets: its loader cannot be chosen, and masks are paired by these names
        for k in range(len(each)):
            shown, label = each[k] if files is None else (Path(files[k]), each._labels[k])
            if isinstance(shown, Image.Image):
                yield Picture(split, titles[label], f"{k:06d}", _png(shown))
            else:
                yield Picture(split, titles[label], shown.stem, shown)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
