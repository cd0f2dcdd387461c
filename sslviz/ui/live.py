"""One picture through the encoder now: its row, its scores beside those of the stored images. Nothing is written."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from sslviz.analysis import expression
from sslviz.analysis.probe import probabilities
from sslviz.analysis.rows import score_rows
from sslviz.encoders.spec import load_spec
from sslviz.errors import Stale
from sslviz.jobs.inputs import open_embedded, sampled
from sslviz.store.results import Result
from sslviz.store.workspace import Workspace
from sslviz.ui import reads
from sslviz.ui.frame import Frame


@dataclass(frozen=True)
class Discriminative:
    """What scores were made with: the features of D int[K], and eps."""

    features: np.ndarray
    eps: float


@dataclass(frozen=True)
class Row:
    """One sample's unit row h float[D], what fires in it, its Q-Score, and the probe's class probabilities (None without one)."""

    h: np.ndarray
    mean: float
    threshold: float
    firing: np.ndarray
    """L_i, int[n]."""
    chosen: np.ndarray
    """L_i ∩ D, int[n], largest excess first."""
    q: float
    probabilities: np.ndarray | None


def discriminative(scores: Result) -> Discriminative:
    """D and eps of a score result."""
    table = reads.table(scores, "features")
    return Discriminative(table.loc[table["chosen"], "feature"].to_numpy(), float(scores.content["summary"]["eps"]))


def check_embeddings(here: Frame, scores: Result) -> None:
    """Raises Stale where the embeddings are no longer those the scores were made from."""
    if reads.embeddings_fingerprint(here.workspace, here.dataset.name, here.encoder) != scores.inputs["embeddings"]:
        raise Stale("the embeddings have changed since these scores were made. The overview has the button that scores again.")


def probe_of(scores: Result, probe: Result | None) -> Result | None:
    """The probe the scores were judged by; None where it is another one now."""
    return probe if probe is not None and probe.basis == scores.inputs.get("probe") else None


def explain(raw: np.ndarray, found: Discriminative, probe: Result | None) -> Row:
    """What a raw embedding float[D] is scored by."""
    unit = expression.unit_rows(raw[None])
    mean, std = (float(moment[0, 0]) for moment in expression.moments(unit))
    h, firing = unit[0], np.flatnonzero(expression.firing(unit, found.eps)[0])
    chosen = np.intersect1d(firing, found.features)
    chosen = chosen[np.argsort(-h[chosen], kind="stable")]
    q = float(score_rows(raw[None], found.features, found.eps).q[0])
    said = None if probe is None else probabilities(raw[None], _weights(str(probe.folder), probe.key))[0]
    return Row(h, mean, mean + found.eps * std, firing, chosen, q, said)


def stored(here: Frame, sample_id: str) -> np.ndarray:
    """The raw embedding float32[D] of a sample. Raises SslvizError where it is missing."""
    return np.asarray(reads.embeddings(here.workspace, here.dataset.name, here.encoder, [sample_id])[0])


def embed(here: Frame, pictures: list[bytes]) -> np.ndarray:
    """Raw embeddings float32[n, D] of picture files, the way the embed job makes them. Raises BadImage, InputError."""
    import torch

    from sslviz.data.images import decode, fit
    from sslviz.heatmaps.layers import alone

    spec = load_spec(here.workspace, here.encoder)
    net = encoder(str(here.workspace.root), here.encoder, spec.fingerprint())
    pixels = torch.stack([fit(decode(content).pixels, spec.input.resize, spec.input.size) for content in pictures])
    bf16 = reads.precision(here.workspace, here.dataset.name, here.encoder) == "bf16"
    with alone(net.backbone):
        return np.asarray(net.embed(pixels, bf16=bf16).numpy())


def probe_classes(probe: Result) -> np.ndarray:
    """Class indices int[C] that the probe's probabilities belong to."""
    classes: np.ndarray = _weights(str(probe.folder), probe.key)["classes"]
    return classes


def nearest(here: Frame, raw: np.ndarray, k: int = 10) -> pd.DataFrame:
    """sample_id and cosine similarity of the k train images nearest to a raw embedding float[D]."""
    from sslviz.analysis.rivals import nearest_neighbours

    made_of = reads.embeddings_fingerprint(here.workspace, here.dataset.name, here.encoder)
    ids, train = _train(str(here.workspace.root), here.dataset.name, here.encoder, made_of)
    found = nearest_neighbours(raw[None], train, k=min(k, len(train)))
    return pd.DataFrame({"sample_id": ids[found.rows[0]], "similarity": found.similarities[0]})


@st.cache_resource(max_entries=2, show_spinner="Loading the encoder")
def encoder(root: str, name: str, fingerprint: str) -> Any:
    """A stored encoder, kept loaded; fingerprint: of its spec now."""
    from sslviz.encoders.run import load_encoder

    return load_encoder(Workspace(root), name)


@st.cache_resource(max_entries=4, show_spinner=False)
def _weights(folder: str, key: str) -> dict[str, np.ndarray]:
    with np.load(f"{folder}/weights.npz", allow_pickle=False) as stored:
        return dict(stored)


@st.cache_resource(max_entries=1, show_spinner="Reading the train images' embeddings")
def _train(root: str, dataset: str, encoder: str, fingerprint: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids, embeddings) of the train images, a seeded sample above the neighbour rivals' limit."""
    from sslviz.analysis.rivals import MAX_TRAIN_ROWS

    embedded = open_embedded(Workspace(root), dataset, encoder)
    rows = sampled(embedded.rows("train"), MAX_TRAIN_ROWS, seed=0)
    return embedded.samples.set_index("row")["sample_id"].loc[rows].to_numpy(), embedded.store.read(rows)
