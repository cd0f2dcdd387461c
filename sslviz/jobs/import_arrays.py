"""Embeddings made elsewhere come in as they are, with ids, labels and splits, joined to a data set by id."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field

from sslviz.errors import InputError
from sslviz.jobs import Settings, job
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace


class ImportSettings(Settings):
    file: str = Field(description=".npy, .npz, .pt, Parquet or HDF5 of embeddings [N, D]; may hold ids, labels and splits too")
    dataset: str = Field(description="data set these samples belong to; made where there is none of this name")
    encoder: str = Field(description="name for what made the embeddings")
    ids: str | None = Field(None, description=".npy, or text with one id per line; default row numbers")
    labels: str | None = Field(None, description=".npy, or text with one label a line")
    splits: str | None = Field(None, description=".npy, or text with train, val or test a line; default all train")


@job("import_arrays", ImportSettings, example="sslviz import --file h.npz --dataset photos --encoder other")
def import_arrays(settings: ImportSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Import embeddings computed elsewhere (.npy, .npz, .pt, Parquet, HDF5); all pages that need no images work."""
    import numpy as np
    import pandas as pd

    from sslviz.arrays import check_embeddings, check_finite
    from sslviz.data import dataset as datasets
    from sslviz.encoders.arrays import read_arrays, read_column
    from sslviz.encoders.spec import EncoderSpec, InputSpec, load_spec
    from sslviz.encoders.store import MIN_FEATURES
    from sslviz.jobs.inputs import available_memory
    from sslviz.store.embeddings import EmbeddingStore
    from sslviz.store.files import only_writer, write_json
    from sslviz.store.fingerprints import file_digest, fingerprint

    path = Path(settings.file).expanduser().absolute()
    arrays = read_arrays(path, available_memory() / 3)  # as it is, as float32, in the order of the samples
    H = check_embeddings(arrays.H, path.name, allow_nan=True)
    if H.shape[1] < MIN_FEATURES:
        raise InputError(f"{path.name} has {H.shape[1]} features; an encoder has at least {MIN_FEATURES}.")
    with np.errstate(over="ignore"):
        H = H.astype(np.float32)
    check_finite(H, f"{path.name} as float32")
    n = len(H)
    columns: dict[str, list[Any] | None] = {}
    for key in ("ids", "labels", "splits"):
        given = getattr(settings, key)
        values = columns[key] = getattr(arrays, key) if given is None else read_column(Path(given).expanduser())
        if values is not None and len(values) != n:
            raise InputError(f"{len(values):,} {key} for {n:,} embeddings; expected one each.")
    ids = [_text(i, "ids") for i in columns["ids"] or [f"row-{i:07d}" for i in range(n)]]
    if len(set(ids)) != n:
        twice = pd.Series(ids)[pd.Series(ids).duplicated()].iloc[0]
        raise InputError(f'id "{twice}" occurs twice; ids must be unique, they join embeddings to samples.')
    spec = EncoderSpec(
        name=settings.encoder,
        backbone="arrays",
        architecture={},
        feature_dim=H.shape[1],
        input=InputSpec(),
        source="imported arrays",
        digest=fingerprint(["arrays", settings.encoder, H.shape[1]]),  # one encoder may have been run on several data sets
    )
    old = load_spec(workspace, settings.encoder) if settings.encoder in workspace.encoders() else spec
    if old != spec:
        raise InputError(
            f'encoder "{settings.encoder}" is another one ({old.source}, {old.feature_dim} features). '
            f"Choose another name with --encoder."
        )
    known = settings.dataset in workspace.datasets()
    notes = [*arrays.notes]
    if known:
        if columns["labels"] is not None or columns["splits"] is not None:
            notes.append("the data set is there already: its own labels and splits are used, not the file's")
        dataset, _ = datasets.refresh(workspace, settings.dataset)
        place = pd.Series(np.arange(n), index=ids)
        found = dataset.samples["sample_id"].map(place)
        kept = dataset.samples[found.notna()]
        if kept.empty:
            raise InputError(
                f'none of the {n:,} ids is a sample of data set "{settings.dataset}" '
                f'(first id "{ids[0]}", first sample "{dataset.samples["sample_id"].iloc[0]}"). '
                "Say which rows are which samples: an array of sample ids beside the features, or --ids FILE"
            )
        for count, what in (
            (n - len(kept), "ids of the file are not samples"),
            (len(dataset.samples) - len(kept), "samples have no embedding"),
        ):
            if count:
                notes.append(f"{count:,} {what} and are left out")
        H = H[found.dropna().astype(int).to_numpy()]
        samples = kept
    else:
        dataset = _array_dataset(workspace, settings.dataset, path, ids, columns)
        H = H[pd.Series(np.arange(n), index=ids).loc[dataset.samples["sample_id"]].to_numpy()]
        samples = dataset.samples
    digest = file_digest(path)
    write_json(workspace.create().encoder(settings.encoder) / "encoder.json", spec.model_dump(mode="json"))
    folder = workspace.embeddings(settings.dataset, settings.encoder)
    progress.stage("writing", len(H))
    with only_writer(folder, f"the embeddings of {settings.dataset} by {settings.encoder}"):
        store = EmbeddingStore(folder)
        depends = {"encoder": spec.fingerprint(), "precision": "imported", "dtype": "float32"}
        plan = store.begin(depends, H.shape[1], "float32", None, samples)
        vectors = dict(zip(samples["sample_id"], range(len(samples)), strict=True))
        for chunk, rows in ((int(str(k)), g) for k, g in plan.groupby("chunk", sort=True)):
            start = chunk * int(store.meta["chunk_rows"])
            values = np.full((int(rows["row"].max()) - start + 1, H.shape[1]), np.nan, np.float32)
            values[rows["row"].to_numpy() - start] = H[rows["sample_id"].map(vectors).to_numpy()]
            part = rows[["sample_id", "row", "size", "mtime_ns"]].assign(
                sha256=[digest[:16]] * len(rows), width=0, height=0, error="", remark=""
            )
            store.write_chunk(chunk, values, part)
            progress.advance(len(rows))
        store.finish()
        write_json(folder / "meta.json", {**store.meta, "dataset": dataset.fingerprint})
    for note in notes:
        progress.warn(note)
    return {"dataset": settings.dataset, "encoder": settings.encoder, "n": len(H), "features": H.shape[1], "notes": notes}


def _text(value: Any, key: str) -> str:
    """An id or a split as text. Raises InputError where it is missing or no text."""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{key} hold bytes that are no UTF-8 text ({value[:20]!r}).") from None
    if value is None or value != value:
        raise InputError(f"{key} are missing in some rows; expected one in each.")
    return str(value)


def _label(value: Any) -> str | None:
    """A class name out of what a label file holds; None for NaN, negative numbers and blanks."""
    if isinstance(value, bytes):
        value = _text(value, "labels")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value != value or (isinstance(value, int | float) and value < 0):
        return None
    return str(value).strip() or None


def _array_dataset(workspace: Workspace, name: str, path: Path, ids: list[str], columns: dict[str, Any]) -> Any:
    import pandas as pd

    from sslviz.data import dataset as datasets

    samples = pd.DataFrame({"sample_id": ids})
    splits = [_text(s, "splits") for s in columns["splits"] or ["train"] * len(ids)]
    strange = sorted(set(splits) - {"train", "val", "test"})
    if strange:
        raise InputError(f'split "{strange[0]}" is unknown; expected train, val or test.')
    samples["split"] = splits
    labels = [_label(v) for v in columns["labels"] or [None] * len(ids)]
    names = sorted({v for v in labels if v is not None}, key=lambda v: (len(v), v) if v.isdigit() else (0, v))
    index = {c: i for i, c in enumerate(names)}
    samples["label_name"] = labels
    samples["label"] = samples["label_name"].map(index).fillna(datasets.UNKNOWN).astype("int64")
    samples["size"], samples["mtime_ns"] = 0, 0
    facts = {
        "name": name,
        "kind": "arrays",
        "root": None,
        "classes": [{"name": c, "title": c} for c in names],
        "only_classes": None,
        "split_rule": "given" if columns["splits"] else "none given: all train",
        "notes": [],
        "counts": {str(k): int(v) for k, v in samples["split"].value_counts().items()},
        "source": os.path.basename(path),
    }
    return datasets.save(workspace, name, facts, samples.sort_values("sample_id", ignore_index=True))
