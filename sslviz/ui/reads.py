"""Reading results for pages: small tables, cached by fingerprint, and the state of each result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis import expression
from sslviz.data import dataset as datasets
from sslviz.data.masks import mask_facts, refresh_masks
from sslviz.encoders.spec import load_spec
from sslviz.errors import EXPECTED, NotFound, said
from sslviz.jobs.inputs import embeddings_state, result_state
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import read_json, read_table
from sslviz.store.results import Result, State
from sslviz.store.workspace import Workspace
from sslviz.ui.widgets import plain

LIST_AGAIN_UP_TO = 100_000


@dataclass(frozen=True)
class Stage:
    """One step of the work on a data set and encoder: its state, why, and the job that makes it."""

    name: str
    job: str
    state: State
    why: str
    result: Result | None


def dataset(workspace: Workspace, name: str) -> datasets.Dataset:
    """A data set as it is on disk now (listed again at most once a minute, up to 100,000 files)."""
    found = listed(workspace, name)
    if found.root is not None and len(found.samples) <= LIST_AGAIN_UP_TO:
        _list_again(str(workspace.root), name)
        found = listed(workspace, name)
    return found


def listed(workspace: Workspace, name: str) -> datasets.Dataset:
    """A data set as it was last listed."""
    return _dataset(str(workspace.root), name, _stamp(workspace.existing_dataset(name)))


def _stamp(folder: Path) -> tuple[int, int]:
    return (folder / "samples.parquet").stat().st_mtime_ns, (folder / "dataset.json").stat().st_mtime_ns


@st.cache_resource(max_entries=8, show_spinner=False)
def _dataset(root: str, name: str, stamp: tuple[int, int]) -> datasets.Dataset:
    return datasets.load(Workspace(root), name)


@st.cache_data(ttl=60, max_entries=32, show_spinner=False)
def _list_again(root: str, name: str) -> None:
    try:
        found, _ = datasets.refresh(Workspace(root), name)
        if (masks := mask_facts(found)) is not None and masks["counts"]["core"] <= LIST_AGAIN_UP_TO:
            refresh_masks(found)
    except EXPECTED as error:
        st.warning(plain(said(error)))


def stages(workspace: Workspace, found: datasets.Dataset, encoder: str) -> list[Stage]:
    """Embeddings, probe and scores, in the order they are made."""
    state, why = embeddings_state(workspace, found, encoder)
    rows = [Stage("Embeddings", "embed", state, why, None)]
    for name, job in (("Linear probe", "probe"), ("Q-Scores", "score")):
        rows.append(stage(workspace, found, encoder, name, job))
    return rows


def stage(workspace: Workspace, found: datasets.Dataset, encoder: str, name: str, job: str) -> Stage:
    """The state of one job's result, under the name people read."""
    return Stage(name, job, *result_state(workspace, found, encoder, job))


def table(result: Result, name: str) -> pd.DataFrame:
    """A result's table; the cache is keyed by the result's key and shared by sessions: do not change it."""
    return _table(str(result.folder), name, result.key)


@st.cache_resource(max_entries=16, show_spinner=False)
def _table(folder: str, name: str, key: str) -> pd.DataFrame:
    return read_table(Path(folder) / f"{name}.parquet")


def scores(result: Result, probe: Result | None, found: datasets.Dataset) -> pd.DataFrame:
    """One row a sample, worst first: sample_id, row (of samples.parquet), split, label, title, scores, prediction, correct."""
    probe_folder, probe_key = (None, None) if probe is None else (str(probe.folder), probe.key)
    return _scores(str(result.folder), result.key, probe_folder, probe_key, str(found.folder), found.fingerprint)


@st.cache_resource(max_entries=4, show_spinner=False)
def _scores(
    folder: str, key: str, probe_folder: str | None, probe_key: str | None, dataset_folder: str, fingerprint: str
) -> pd.DataFrame:
    scores = read_table(Path(folder) / "scores.parquet")
    path = Path(dataset_folder)
    found = datasets.load(Workspace(path.parents[1]), path.name)
    rows = pd.Series(range(len(found.samples)), index=found.samples["sample_id"])
    scores["row"] = scores["sample_id"].map(rows).astype("Int64")
    titles = dict(enumerate(read_json(Path(folder) / "result.json")["summary"]["titles"]))  # as they were when scored
    scores["title"] = scores["label"].map(titles)
    if probe_folder is not None:
        columns = ["sample_id", "prediction", "correct", "confidence"]
        predictions = read_table(Path(probe_folder) / "predictions.parquet", columns)
        scores = scores.merge(predictions, on="sample_id", how="left")
        scores["predicted"] = scores["prediction"].map(titles)
    return scores.sort_values(["q", "sample_id"], ignore_index=True)


def embeddings(workspace: Workspace, name: str, encoder: str, sample_ids: list[str]) -> np.ndarray:
    """Raw embeddings float32[n, D] of these samples. Raises NotFound for a sample without one."""
    store = EmbeddingStore(workspace.embeddings(name, encoder))
    known = _embedding_rows(str(store.folder), str(store.meta["fingerprint"]))
    if missing := [s for s in sample_ids if s not in known.index]:
        raise NotFound(f'no embedding of "{missing[0]}" by {encoder}.')
    return store.read(known.loc[sample_ids].to_numpy())


@st.cache_resource(max_entries=4, show_spinner=False)
def _embedding_rows(folder: str, fingerprint: str) -> pd.Series:
    return EmbeddingStore(Path(folder)).rows().set_index("sample_id")["row"]


def embeddings_fingerprint(workspace: Workspace, name: str, encoder: str) -> str:
    """Of the stored embeddings now. Raises NotFound where there are none."""
    return str(EmbeddingStore(workspace.embeddings(name, encoder)).meta.get("fingerprint"))


def width(workspace: Workspace, name: str, encoder: str) -> int:
    """Features of the stored embeddings; 0 where there are none."""
    store = EmbeddingStore(workspace.embeddings(name, encoder))
    return int(store.meta["width"]) if (store.folder / "meta.json").exists() else 0


def precision(workspace: Workspace, name: str, encoder: str) -> str:
    """Arithmetic the stored embeddings were made with."""
    return str(EmbeddingStore(workspace.embeddings(name, encoder)).meta["depends"]["precision"])


@st.cache_resource(max_entries=2, show_spinner="Reading the features' values")
def unit_rows(root: str, name: str, encoder: str, fingerprint: str, sample_ids: tuple[str, ...]) -> np.ndarray:
    """Unit rows float32[n, D] of these samples; the cache is shared by sessions: do not change them."""
    return np.asarray(expression.unit_rows(embeddings(Workspace(root), name, encoder, list(sample_ids))))


def causes(found: datasets.Dataset, sample_id: str) -> dict[str, Any] | None:
    """What a picture of the demo set was drawn from; None for other data sets and samples."""
    path = found.folder / "causes.parquet"
    if not path.exists():
        return None
    table = _causes(str(path), path.stat().st_mtime_ns)
    return dict(table.loc[sample_id]) if sample_id in table.index else None


@st.cache_resource(max_entries=2, show_spinner=False)
def _causes(path: str, stamp: int) -> pd.DataFrame:
    return read_table(Path(path)).set_index("sample_id")


def best_encoder(workspace: Workspace, name: str | None, encoders: list[str]) -> str:
    """The encoder to show first: the one with most results for this data set, else one with embeddings, else the first."""
    for part in ("results", "embeddings"):
        folder = workspace.root / part / (name or "")
        there = [e for e in encoders if name and (folder / e).is_dir()]
        if there:
            return max(there, key=lambda e: len(list((folder / e).iterdir())))
    return encoders[0]


def is_arrays(workspace: Workspace, encoder: str) -> bool:
    """Whether an encoder is a name only, for embeddings that were imported as arrays."""
    return load_spec(workspace, encoder).backbone == "arrays"


def bad_files(workspace: Workspace, name: str, encoder: str) -> pd.DataFrame:
    """sample_id and reason of the files that gave no embedding."""
    path = EmbeddingStore(workspace.embeddings(name, encoder)).folder / "bad.parquet"
    return read_table(path) if path.exists() else pd.DataFrame({"sample_id": [], "error": []})


def summary(stage: Stage) -> dict[str, Any]:
    """A result's summary; {} where it is missing."""
    return {} if stage.result is None else dict(stage.result.content["summary"])
