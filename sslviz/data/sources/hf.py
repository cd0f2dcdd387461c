"""Image data sets of the Hugging Face hub, or of a folder that holds one: OWNER/NAME, or OWNER/NAME@CONFIG."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sslviz.data.folder import SPLITS
from sslviz.data.sources import SOURCES, Found, Picture
from sslviz.errors import InputError


@SOURCES.register("hf")
def open_hf(name: str, downloads: Path) -> Found:
    """The first column of pictures, with the first column of class names; no code of the data set is run."""
    import datasets

    datasets.disable_progress_bars()
    repository, _, config = name.partition("@")
    loaded = datasets.load_dataset(repository, config or None, cache_dir=str(downloads / "hf"))
    features = next(iter(loaded.values())).features
    images = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images:
        raise InputError(f"{name} has no column of pictures ({', '.join(features)}).")
    notes = [
        f"{what}: {chosen}, not {', '.join(others)}"
        for what, (chosen, *others) in (("pictures", images), ("labels", labels or [""]))
        if others
    ]
    splits = {there: split for there in loaded for split, names in SPLITS.items() if there.lower() in names}
    if left_out := [there for there in loaded if splits and there not in splits]:
        notes.append(f"splits left out: {', '.join(left_out)}")
    chosen = {there: loaded[there] for there in splits or loaded}
    bare = {there: rows.cast_column(images[0], datasets.Image(decode=False)) for there, rows in chosen.items()}
    pictures = _pictures(bare, splits, images[0], labels[0] if labels else None, notes)
    return Found(sum(map(len, bare.values())), pictures, notes=notes)


def _pictures(
    found: dict[str, Any], splits: dict[str, str], image: str, label: str | None, notes: list[str]
) -> Iterator[Picture]:
    without = 0
    for there, rows in found.items():
        names = [] if label is None else rows.features[label].names
        for k, row in enumerate(rows.select_columns([image] if label is None else [image, label])):
            content = (row[image] or {}).get("bytes")
            if content is None:  # a path, which could lead anywhere on this machine
                without += 1
                continue
            label_of = row[label] if label is not None and row[label] is not None else -1
            title = names[label_of] if label_of >= 0 else None
            yield Picture(splits.get(there, ""), title, f"{there}-{k:07d}", content)
    if without:
        notes.append(f"{without:,} rows hold no picture and are left out")
