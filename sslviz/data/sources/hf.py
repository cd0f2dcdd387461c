"""Image data sets of the Hugging Face hub, or of a folder that holds one: OWNER/NAME, or OWNER/NAME@CONFIG."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslviz.data.folder import SPLITS, is_inside
from sslviz.data.sources import SOURCES, Found, Picture, Source, cannot_be_had
from sslviz.errors import InputError


def place_of(name: str) -> tuple[str, str | None, Path | None]:
    """(repository, configuration, the folder here where it is one). Raises InputError for what is neither."""
    for repository, config in ((name, ""), name.partition("@")[::2]):  # a folder's own name may hold an @
        try:
            folder = Path(repository).expanduser()
            if repository and folder.is_dir():
                return repository, config or None, folder.absolute()
        except (OSError, RuntimeError, ValueError):
            pass
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise InputError(f'"{repository}" is neither a folder here nor a name of the hub. Write hf:OWNER/NAME.')
    return repository, config or None, None


def open_hf(name: str, downloads: Path) -> Found:
    """The first column of pictures, with the first column of class names; no code of the data set is run."""
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    repository, config, folder = place_of(name)
    cache = downloads / "hf"
    try:
        builder = datasets.load_dataset_builder(str(folder or repository), config, cache_dir=str(cache))
        named = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
        if strange := [file for file in named if not _is_its_own(file, folder)]:
            raise InputError(f"it names files elsewhere ({strange[0]})")
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except Exception as error:  # files of others, read by a library: whatever it meets is about them
        raise cannot_be_had(f"hf:{name}", error) from None
    features = next(iter(loaded.values())).features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images:
        raise InputError(f"hf:{name} has no column of pictures ({', '.join(features)}).")
    notes = [
        f"{what}: {chosen}, not {', '.join(others)}"
        for what, (chosen, *others) in (("pictures", images), ("labels", labels or [""]))
        if others
    ]
    splits = {there: split for there in loaded for split, names in SPLITS.items() if there.lower() in names}
    if "train" not in splits.values() and len(splits) < len(loaded):
        splits = {}  # as with folders: a name that only looks like a split's
    elif left_out := [there for there in loaded if there not in splits]:
        notes.append(f"splits left out: {', '.join(left_out)}")
    chosen = {there: loaded[there] for there in splits or loaded}
    bare = {there: rows.cast_column(images[0], datasets.Image(decode=False)) for there, rows in chosen.items()}
    roots = [cache, Path(constants.HF_HUB_CACHE), *([folder] if folder else [])]
    pictures = _pictures(bare, splits, images[0], labels[0] if labels else None, roots, notes)
    return Found(sum(map(len, bare.values())), pictures, notes=notes)


def _is_its_own(file: str, folder: Path | None) -> bool:
    """Whether a file that a data set is made of lies on the hub, or in its folder: its README may name any of this machine."""
    return is_inside(Path(file), [folder]) if folder else file.startswith("hf://")


SOURCES.register("hf")(Source(open_hf, (), "OWNER/NAME"))


def _pictures(
    found: dict[str, Any], splits: dict[str, str], image: str, label: str | None, roots: list[Path], notes: list[str]
) -> Iterator[Picture]:
    without = 0
    for there, rows in found.items():
        names = [] if label is None else rows.features[label].names
        for k, row in enumerate(rows.select_columns([image] if label is None else [image, label])):
            content = _content(row[image] or {}, roots)
            if content is None:
                without += 1
                continue
            at = -1 if label is None or row[label] is None else row[label]
            yield Picture(splits.get(there, ""), names[at] if 0 <= at < len(names) else None, f"{there}-{k:07d}", content)
    if without:
        notes.append(f"{without:,} rows without a picture are left out")


def _content(cell: dict[str, Any], roots: list[Path]) -> bytes | Path | None:
    """The bytes of a picture, or its file where that is the data set's own: a path could lead anywhere on this machine."""
    if cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    path = Path(cell.get("path") or "")
    try:
        return path if path.is_file() and is_inside(path, roots) else None
    except (OSError, ValueError):
        return None
