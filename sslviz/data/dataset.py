"""A data set registered in a workspace: samples.parquet and dataset.json."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from sslviz.data.folder import Listing, class_titles, list_folder
from sslviz.errors import InputError, NotFound
from sslviz.store.files import only_writer, read_json, read_table, write_json, write_table
from sslviz.store.workspace import Workspace

UNKNOWN = -1
_PIXEL_FACTS: dict[str, Any] = {"width": "Int64", "height": "Int64", "sha256": "string"}


@dataclass(frozen=True)
class Dataset:
    """samples: sample_id, split, label (index into classes, -1 unknown), label_name, size, mtime_ns, and, once an
    embedding pass has read the pixels, width, height, sha256."""

    name: str
    folder: Path
    facts: dict[str, Any]
    samples: pd.DataFrame

    @property
    def root(self) -> Path | None:
        """Folder of the pictures; None for arrays."""
        return Path(self.facts["root"]) if self.facts.get("root") else None

    @property
    def classes(self) -> list[str]:
        return [c["name"] for c in self.facts["classes"]]

    @property
    def titles(self) -> list[str]:
        """What to show for each class."""
        return [c["title"] for c in self.facts["classes"]]

    @property
    def fingerprint(self) -> str:
        """Changes with the ids, splits, labels, sizes and times of its files."""
        return str(self.facts["fingerprint"])

    @property
    def has_labels(self) -> bool:
        return bool((self.samples["label"] >= 0).any())


def add_folder(
    workspace: Workspace,
    name: str,
    root: Path,
    classes: list[str] | None = None,
    inside: list[Path] | None = None,
) -> tuple[Dataset, list[str]]:
    """Register (or list again) an image folder under `name`. Returns the data set and remarks to show.

    Raises InputError when there is no picture or the name belongs to another folder.
    """
    root = root.expanduser().absolute()
    known = _facts(workspace.dataset(name)) if name in workspace.datasets() else None
    if known is not None and known.get("root") != str(root):
        raise InputError(
            f'data set "{name}" is already {known.get("root") or "an array import"}. '
            f"Choose another name or remove it: sslviz data remove {name}"
        )
    if classes is None and known is not None:
        classes = known.get("only_classes")
    listing = list_folder(root, classes, inside)
    return _register(workspace, name, root, listing, classes, inside), listing.notes


def _register(
    workspace: Workspace,
    name: str,
    root: Path,
    listing: Listing,
    classes: list[str] | None,
    inside: list[Path] | None,
) -> Dataset:
    samples = listing.samples
    index = {c: i for i, c in enumerate(listing.classes)}
    samples["label"] = samples["label_name"].map(index).fillna(UNKNOWN).astype("int64")
    titles = class_titles(listing.classes)
    facts = {
        "name": name,
        "kind": "folder",
        "root": str(root),
        "classes": [{"name": c, "title": titles[c]} for c in listing.classes],
        "only_classes": classes,
        "links_inside": None if inside is None else [str(p) for p in inside],
        "split_rule": listing.split_rule,
        "notes": listing.notes,
        "counts": {str(k): int(v) for k, v in samples["split"].value_counts().items()},
    }
    return save(workspace, name, facts, samples)


def save(workspace: Workspace, name: str, facts: dict[str, Any], samples: pd.DataFrame) -> Dataset:
    """Write a data set's table and facts; its fingerprint comes from ids, splits, labels, sizes and times."""
    columns = ["sample_id", "split", "label_name", "size", "mtime_ns"]
    rows = pd.util.hash_pandas_object(samples[columns], index=False).sort_values()
    facts = {**facts, "fingerprint": hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()[:16]}
    folder = workspace.create().dataset(name)
    path = folder / "dataset.json"
    with only_writer(folder / "samples.parquet", f"the sample table of {name}", wait=True):
        old = read_json(path) if path.exists() else None
        facts["added"] = old["added"] if old else datetime.now(UTC).isoformat(timespec="seconds")
        root = Path(facts["root"] or "")
        kept = facts | ({"root": str(root.relative_to(folder))} if root.is_relative_to(folder) else {})
        if kept == old:
            return load(workspace, name)
        samples = _with_pixel_facts(samples, folder)
        write_table(folder / "samples.parquet", samples)
        write_json(path, kept)
    return Dataset(name, folder, facts, samples)


def _facts(folder: Path) -> dict[str, Any]:
    """What dataset.json says; a root inside the workspace is kept from there, so that a workspace can be copied or moved."""
    facts: dict[str, Any] = read_json(folder / "dataset.json")
    return facts | ({"root": str(folder / facts["root"])} if facts.get("root") else {})


def _with_pixel_facts(samples: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Keep width, height and sha256 of files that have not changed since they were read."""
    path = folder / "samples.parquet"
    if "sha256" in samples:
        return samples
    known = read_table(path) if path.exists() else pd.DataFrame()
    if "sha256" not in known:
        unknown = {c: pd.Series(pd.NA, index=samples.index, dtype=kind) for c, kind in _PIXEL_FACTS.items()}
        return samples.assign(**unknown)
    facts = known[["sample_id", "size", "mtime_ns", "width", "height", "sha256"]]
    return samples.merge(facts, on=["sample_id", "size", "mtime_ns"], how="left")


def record_pixel_facts(workspace: Workspace, name: str, read: pd.DataFrame) -> None:
    """Enter what an embedding pass has read (sample_id, width, height, sha256) into samples.parquet."""
    folder = workspace.dataset(name)
    with only_writer(folder / "samples.parquet", f"the sample table of {name}", wait=True):
        samples = read_table(folder / "samples.parquet")
        facts = read.set_index("sample_id")[["width", "height", "sha256"]]
        for column, kind in _PIXEL_FACTS.items():
            new = samples["sample_id"].map(facts[column])
            samples[column] = pd.Series(new if column not in samples else new.where(new.notna(), samples[column]), dtype=kind)
        write_table(folder / "samples.parquet", samples)


def load(workspace: Workspace, name: str) -> Dataset:
    """A registered data set. Raises NotFound."""
    folder = workspace.existing_dataset(name)
    return Dataset(name, folder, _facts(folder), read_table(folder / "samples.parquet"))


def refresh(workspace: Workspace, name: str) -> tuple[Dataset, list[str]]:
    """List a folder data set again, so that files that came, went or changed are seen. Arrays are returned as they are."""
    dataset = load(workspace, name)
    if dataset.root is None:
        return dataset, []
    if not dataset.root.is_dir():
        raise NotFound(f'the folder of data set "{name}" is gone: {dataset.root}. Put it back, or: sslviz data remove {name}')
    inside = dataset.facts.get("links_inside")
    return add_folder(workspace, name, dataset.root, None, None if inside is None else [Path(p) for p in inside])
