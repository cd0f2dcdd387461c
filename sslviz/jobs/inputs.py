"""What score and probe read: a data set, its embeddings by one encoder, and whether they still belong together."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sslviz.data import dataset as datasets
from sslviz.data.masks import mask_facts
from sslviz.encoders.spec import load_spec
from sslviz.errors import InputError, NotFound, Stale, shown
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.results import Result, State, latest_result
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    from sslviz.analysis.features import ActivationCounts, FeatureSelection
    from sslviz.analysis.softmax import Design

_OF_MEMORY = 0.8
"""Of what is free, this much may be planned for: what is read passes through memory too."""
JUDGED_ON = ("test", "val")


def available_memory() -> int:
    """Bytes of memory that work may take: free or given back on demand (Linux), else half of what is built in."""
    info = Path("/proc/meminfo")
    if info.exists():
        free = next(int(line.split()[1]) * 1024 for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
        return min([free, *left_to_group(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def left_to_group(mine: Path, groups: Path) -> list[int]:
    """Bytes that the limits of this process's control groups leave (containers, SLURM; cgroup v2), the cache of files counted
    as free; [] where none is set."""
    try:
        own = next(line.removeprefix("0::/") for line in mine.read_text().splitlines() if line.startswith("0::/"))
    except (OSError, StopIteration):
        return []
    left = []
    place = groups / own
    for folder in [place, *place.parents]:
        if not folder.is_relative_to(groups):
            break
        try:
            most = (folder / "memory.max").read_text().strip()
            used = int((folder / "memory.current").read_text())
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max":
            left.append(max(0, int(most) - used + int(facts.get("inactive_file", 0))))
    return left


def sampled(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Ascending row numbers: all of them, or a seeded sample of `most`."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


@dataclass(frozen=True)
class Embedded:
    """Samples that have an embedding (sample_id, row, split, label, ...), in the order of their rows, and where to read it."""

    dataset: datasets.Dataset
    encoder: str
    store: EmbeddingStore
    samples: pd.DataFrame
    inputs: dict[str, str]
    """Fingerprints that a result made from these lists as its inputs, as they were when these were opened."""

    def rows(self, split: str) -> np.ndarray:
        chosen: np.ndarray = self.samples.loc[self.samples["split"] == split, "row"].to_numpy(dtype=np.int64)
        return chosen

    def counted(self, rows: np.ndarray, eps: Sequence[float] | np.ndarray, progress: Progress) -> "ActivationCounts":
        """How often each feature fires in the samples of these rows, for each eps."""
        from sslviz.analysis.features import ActivationCounts

        progress.stage("counting activations", len(rows))
        counts = ActivationCounts(self.store.meta["width"], eps)
        for read, block in self.store.blocks(rows):
            counts.update(block)
            progress.advance(len(read))
        return counts

    def selected(self, rows: np.ndarray, eps: float | Literal["auto"], progress: Progress) -> "FeatureSelection":
        """The discriminative features of the samples of these rows, at the default percentiles. Raises InputError: eps < 0."""
        from sslviz.analysis.features import EPS_GRID, LOWER, UPPER
        from sslviz.arrays import check_eps

        return self.counted(rows, EPS_GRID if eps == "auto" else [check_eps(eps)], progress).select(eps, LOWER, UPPER)

    def titles(self, labels: Iterable[int]) -> list[str]:
        """What to show for these classes."""
        return [self.dataset.titles[int(k)] for k in labels]

    def lonely(self, counts: pd.Series) -> list[str]:
        """A remark where classes have one train image only (`class_counts`), else none."""
        names = self.titles(counts.index[counts == 1])
        return [f"{len(names)} classes have one train image only: {shown(names)}"] if names else []

    def class_counts(self) -> pd.Series:
        """Train samples of each class, the most frequent first. Raises InputError: fewer than the two classes a probe needs."""
        labels = self.samples.loc[self.samples["split"] == "train", "label"]
        counts = labels[labels >= 0].value_counts()
        if len(counts) < 2:
            there = f"has {len(counts)}" if self.dataset.has_labels else "has no labels"
            raise InputError(f'a probe needs two classes with train images; data set "{self.dataset.name}" {there}.')
        return counts

    def too_large(self, n: int) -> str:
        """A remark where n embeddings (float32) do not fit into memory, else ""."""
        need = n * int(self.store.meta["width"]) * 4
        if need < _OF_MEMORY * available_memory():
            return ""
        return f"{need / 1e9:.1f} GB do not fit into memory: the embeddings are read again at each pass"

    def design(self, train: pd.DataFrame, held: bool) -> "Design":
        """The design of probes on these samples, held in memory or read anew at each pass."""
        from sslviz.analysis.softmax import Design

        rows, y = train["row"].to_numpy(), train["label"].to_numpy()
        return Design(self.store.read(rows) if held else lambda: (block for _, block in self.store.blocks(rows)), y)

    @property
    def judged_on(self) -> str | None:
        """The split that figures are judged on: test, else val, the first of them that has a class of train; else None (train by
        out-of-fold predictions)."""
        splits = [s for s in JUDGED_ON if (self.samples["split"] == s).any()]
        label = self.samples["label"]
        known = label.isin(label[(self.samples["split"] == "train") & (label >= 0)])
        return next((s for s in splits if (known & (self.samples["split"] == s)).any()), next(iter(splits), None))


def embeddings_state(workspace: Workspace, dataset: datasets.Dataset, encoder: str) -> tuple[State, str]:
    """Whether the embeddings are there and belong to today's data set and encoder; a sentence where they do not."""
    store = EmbeddingStore(workspace.embeddings(dataset.name, encoder))
    if not (store.folder / "meta.json").exists():
        return "missing", "not embedded yet"
    if not store.complete:
        return "missing", "begun, and not complete yet"
    meta = store.meta
    if meta["depends"]["encoder"] != load_spec(workspace, encoder).fingerprint():
        return "stale", "the encoder (weights, architecture or input) has changed since"
    if meta.get("dataset") != dataset.fingerprint:
        return "stale", "files of the data set came, went or changed since"
    return "fresh", ""


def open_embedded(workspace: Workspace, dataset_name: str, encoder: str) -> Embedded:
    """Data set and embeddings, joined by sample_id. Raises NotFound when missing, Stale when they no longer belong together."""
    dataset, _ = datasets.refresh(workspace, dataset_name)
    workspace.existing_encoder(encoder)
    state, why = embeddings_state(workspace, dataset, encoder)
    store = EmbeddingStore(workspace.embeddings(dataset_name, encoder))
    arrays = load_spec(workspace, encoder).backbone == "arrays"
    remedy = f"sslviz import --dataset {dataset_name} --encoder {encoder} --file FILE" if arrays else store.remedy
    if state == "missing":
        raise NotFound(f"no {store.name}: {why}. Compute them: {remedy}")
    if state == "stale":
        raise Stale(f"{store.name} are stale: {why}. Recompute what changed: {remedy}")
    inputs = {"dataset": dataset.fingerprint, "embeddings": str(store.meta["fingerprint"])}
    rows = store.rows()[["sample_id", "row"]]
    samples = rows.merge(dataset.samples, on="sample_id", how="inner").sort_values("row", ignore_index=True)
    if not (samples["split"] == "train").any():
        raise InputError(
            f'data set "{dataset_name}" has no train images; discriminative features and the probe come from the train split.'
        )
    return Embedded(dataset, encoder, store, samples, inputs)


def result_state(workspace: Workspace, dataset: datasets.Dataset, encoder: str, job: str) -> tuple[State, str, Result | None]:
    """State of a job's latest result, transitively: what it was made from must be today's."""
    result = latest_result(workspace.results(dataset.name, encoder, job))
    if result is None:
        return "missing", f"no {job} yet", None
    state, why = embeddings_state(workspace, dataset, encoder)
    if state != "fresh":
        return "stale", why, result
    now: dict[str, Any] = {
        "dataset": dataset.fingerprint,
        "embeddings": EmbeddingStore(workspace.embeddings(dataset.name, encoder)).meta["fingerprint"],
    }
    for upstream in ("probe", "score"):
        if upstream in result.inputs:
            above, above_why, made = result_state(workspace, dataset, encoder, upstream)
            if made is None or above != "fresh":
                return "stale", f"{upstream}: {above_why}", result
            now[upstream] = made.basis
    if "masks" in result.inputs:
        now["masks"] = (mask_facts(dataset) or {}).get("fingerprint")
    for name, was in result.inputs.items():
        if now.get(name) != was:
            return "stale", f"{name} {'have' if name.endswith('s') else 'has'} changed since", result
    return "fresh", "", result
