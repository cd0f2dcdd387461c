"""Where does the encoder look? Heatmaps of the features that make the Q-Score, against masks of object and surroundings."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from sslviz.errors import InputError, NotFound, Stale, shown
from sslviz.jobs import Device, Seed, Settings, StoredEncoder, Workers, job, readers
from sslviz.progress import Progress, while_checking
from sslviz.store.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from sslviz.data.masks import Masks
    from sslviz.jobs.inputs import Embedded
    from sslviz.store.results import Result

_BATCH = 64


class InterpretSettings(Settings):
    dataset: str = Field(description="data set in the workspace, with masks (sslviz data add NAME FOLDER --masks MASKS)")
    encoder: StoredEncoder
    method: Literal["auto", "activation", "gradcam"] = Field("auto", description="auto: activation maps where they are exact")
    threshold: float = Field(0.5, gt=0, le=1, description="a heatmap's area is where it is at least this")
    mask_threshold: float = Field(0.5, gt=0, le=1, description="a mask's area is where it is at least this")
    signed: bool = Field(
        False, description="for transformers (not in the paper): features far below their mean explain too, negated"
    )
    workers: Workers = None
    device: Device = "auto"
    seed: Seed = Field(0, description="random seed of shuffling, folds and intervals")


@job("interpret", InterpretSettings, example="sslviz interpret --dataset demo --encoder simclr-demo")
def interpret(settings: InterpretSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Measure how far heatmaps cover object and surroundings, for images the probe gets right and wrong, beside base rates."""
    import pandas as pd

    from sslviz.analysis import looks
    from sslviz.data.masks import refresh_masks
    from sslviz.encoders.run import load_encoder, pick_device
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    masks = refresh_masks(embedded.dataset)
    if masks is None or embedded.dataset.root is None:
        raise NotFound(
            f'data set "{settings.dataset}" has no masks. Add them: '
            f"sslviz data add {settings.dataset} {shlex.quote(str(embedded.dataset.root or 'FOLDER'))} --masks FOLDER"
        )
    scores = _fresh(workspace, embedded, "score")
    progress.stage("joining masks and predictions")
    samples, notes = _with_masks(embedded, masks)
    samples, more = _answered(samples, embedded, settings, workspace, progress)
    notes += more
    encoder = load_encoder(workspace, settings.encoder, pick_device(settings.device))
    found = _Look(settings, encoder, embedded, masks, scores, progress).all(samples)
    table = found.rows.merge(samples[["sample_id", "split", "label", "correct"]], on="sample_id", how="left")
    n_both = int(table["spurious_iou_uniform"].notna().sum())
    counts = {
        "images left out": len(found.refused),
        "maps without positive evidence (often of an empty set), which count as 0": int(table["zero"].sum()),
        "core masks that mark nothing at the threshold": int(table["core_mass_map"].isna().sum()),
        "images without a spurious mask, which do not count for it": len(table) - n_both,
    }
    notes += [
        f"{what}: {n:,}" + (f" ({shown(found.refused, 3)})" if k == 0 else "") for k, (what, n) in enumerate(counts.items()) if n
    ]
    if found.features.empty:
        notes.append("single features have no table here: each would take a backward pass of its own")
    summary = {
        "judged_on": str(samples["split"].iloc[0]),
        "n": len(table),
        "n_correct": int(table["correct"].eq(True).sum()),
        "n_wrong": int(table["correct"].eq(False).sum()),
        "n_zero": int(table["zero"].sum()),
        "n_empty_core": counts["core masks that mark nothing at the threshold"],
        "n_with_spurious": n_both,
        "neither": None if masks.facts["rest"] else looks.neither(table),
        "signed": settings.signed,
        "refused": found.refused,
        "method": found.method,
        "layer": found.layer,
        "map_size": list(found.maps.shape[1:]),
        "threshold": settings.threshold,
        "mask_threshold": settings.mask_threshold,
        "eps": float(scores.content["summary"]["eps"]),
        "masks": masks.facts["counts"],
        "groups": looks.groups(table, settings.seed),
        "differences": looks.differences(table, settings.seed),
        "notes": notes,
    }
    for note in notes:
        progress.warn(note)
    inputs = {**embedded.inputs, "score": scores.basis, "masks": masks.fingerprint}
    maps = pd.DataFrame({"sample_id": found.rows["sample_id"], "map": list(found.maps.reshape(len(found.maps), -1))})
    tables = {"looks": table, "maps": maps, "curve": looks.curve(table, found.curves), "features": found.features}
    folder = workspace.results(settings.dataset, settings.encoder, "interpret")
    with only_writer(folder, f"the heatmaps of {settings.dataset} by {settings.encoder}"):
        plain = settings.model_dump(mode="json", exclude={"dataset", "encoder", "workers", "device"})
        save_result(folder, plain, inputs, tables, summary)
    return {"dataset": settings.dataset, "encoder": settings.encoder, **summary}


def _fresh(workspace: Workspace, embedded: "Embedded", what: str) -> "Result":
    from sslviz.jobs.inputs import result_state

    state, why, result = result_state(workspace, embedded.dataset, embedded.encoder, what)
    remedy = f"sslviz {what} --dataset {embedded.dataset.name} --encoder {embedded.encoder}"
    if result is None:
        raise NotFound(f"no {what} of {embedded.dataset.name} by {embedded.encoder} yet. Make it: {remedy}")
    if state != "fresh":
        raise Stale(f"the {what} of {embedded.dataset.name} by {embedded.encoder} is stale: {why}. Make it again: {remedy}")
    return result


def _with_masks(embedded: "Embedded", masks: "Masks") -> "tuple[pd.DataFrame, list[str]]":
    """The samples of one split that have a core mask: of the judged one, else the first of test, val and train with any."""
    marked = embedded.samples[embedded.samples["sample_id"].isin(masks.samples())]
    there = set(marked["split"])
    split = next((s for s in (embedded.judged_on, "test", "val", "train") if s in there), None)
    if split is None:
        raise InputError(f'no embedded image of "{embedded.dataset.name}" has a core mask.')
    part = marked[marked["split"] == split]
    total = int((embedded.samples["split"] == split).sum())
    notes = (
        [] if len(part) == total else [f"{len(part):,} of {total:,} {split} images have a core mask; the others are not counted"]
    )
    return part.reset_index(drop=True), notes


def _answered(
    samples: "pd.DataFrame", embedded: "Embedded", settings: InterpretSettings, workspace: Workspace, progress: Progress
) -> "tuple[pd.DataFrame, list[str]]":
    """`correct` beside each sample: the stored probe's answers, on train images those of 5 folds."""
    import pandas as pd

    from sslviz.analysis.probe import out_of_fold
    from sslviz.jobs.inputs import result_state

    def unknown(why: str) -> "tuple[pd.DataFrame, list[str]]":
        return samples.assign(correct=pd.array([pd.NA] * len(samples), "boolean")), [
            f"{why}: right and wrong cannot be told apart"
        ]

    if not embedded.dataset.has_labels:
        return unknown("no labels")
    state, why, probe = result_state(workspace, embedded.dataset, settings.encoder, "probe")
    if probe is None or state != "fresh":
        return unknown(f"no fresh probe ({why})")
    joined = samples.merge(probe.table("predictions", ["sample_id", "correct"]), on="sample_id", how="left")
    notes = []
    if samples["split"].iloc[0] == "train":
        notes.append("masks are on train images: right and wrong are those of 5-fold out-of-fold probes")
        if joined["correct"].isna().all():
            train = embedded.samples[(embedded.samples["split"] == "train") & (embedded.samples["label"] >= 0)]
            if embedded.too_large(4 * len(train)):
                return unknown("out-of-fold predictions need all embeddings in memory, which they do not fit into")
            progress.stage("predicting train images out of fold")
            H, y = embedded.store.read(train["row"].to_numpy()), train["label"].to_numpy()
            own = probe.content["summary"]
            l2 = float(own["l2"]) if own["protocol"] == "lbfgs" else None
            said, *_ = while_checking(lambda: out_of_fold(H, y, l2, seed=settings.seed), progress)
            joined["correct"] = samples["sample_id"].map(pd.Series(said == y, index=train["sample_id"]))
    joined["correct"] = joined["correct"].astype("boolean")
    return joined, notes


@dataclass
class _Found:
    """rows: a sample each, in the order of maps float[n, h, w] and curves float[n, kind, threshold, mask threshold]."""

    rows: "pd.DataFrame"
    maps: "np.ndarray"
    curves: "np.ndarray"
    features: "pd.DataFrame"
    method: str
    layer: str
    refused: list[str]


class _Look:
    """One pass over the pictures: maps, masks and what they have in common, batch by batch."""

    def __init__(
        self,
        settings: InterpretSettings,
        encoder: Any,
        embedded: "Embedded",
        masks: "Masks",
        scores: "Result",
        progress: Progress,
    ) -> None:
        table = scores.table("features", ["feature", "chosen"]).sort_values("feature")
        self.chosen = table["chosen"].to_numpy()
        self.eps = float(scores.content["summary"]["eps"])
        self.settings, self.encoder, self.embedded, self.masks, self.progress = settings, encoder, embedded, masks, progress
        self.spec = encoder.spec.input
        self.refused: list[str] = []

    def all(self, samples: "pd.DataFrame") -> _Found:
        """Look at every sample, in a seeded order: the image before it in its batch lends the shuffled map."""
        import numpy as np
        import pandas as pd
        import torch

        from sslviz.analysis.looks import FeatureOverlaps, overlaps
        from sslviz.heatmaps import HEATMAPS, finish
        from sslviz.heatmaps.layers import Subject

        settings, size = self.settings, (self.spec.size, self.spec.size)
        per_feature = FeatureOverlaps(len(self.chosen), settings.mask_threshold)
        method, layer = settings.method, ""
        rows, maps, curves = [], [], []
        self.progress.stage("looking", len(samples))
        with Subject(self.encoder) as subject:
            for batch in self._batches(samples.iloc[np.random.default_rng(settings.seed).permutation(len(samples))]):
                inputs = subject.inputs(torch.stack(batch.pixels))
                if method == "auto":
                    method = "activation" if subject.is_exact(None) else "gradcam"
                layer = subject.layer(None).name
                fires, weights = self._firing(batch.rows)
                if exact := subject.is_exact(None):  # Grad-CAM's maps of single features are these too
                    every = subject.last_maps(inputs).cpu().numpy()
                    named = [self._named(*one) for one in zip(batch.ids, batch.sizes, strict=True)]
                    per_feature.update(every, fires, batch.masks, named)
                if exact and method == "activation":
                    raw = np.einsum("nchw,nc->nhw", every, weights)
                else:
                    raw = HEATMAPS[method].maps(subject, inputs, torch.from_numpy(weights), None).numpy()
                found, curve = overlaps(
                    raw,
                    batch.masks,
                    lambda raw: np.asarray(finish(torch.from_numpy(raw), size)),
                    settings.threshold,
                    settings.mask_threshold,
                )
                rows.append(pd.DataFrame({"sample_id": batch.ids, "zero": raw.max((1, 2)) <= 0, **found}))
                maps.append(raw.astype(np.float32))
                curves.append(curve)
                self.progress.advance(len(batch.ids))
        if not rows:
            raise InputError(f"none of the {len(samples):,} masks could be used: {shown(self.refused, 3)}.")
        whole = pd.concat(rows, ignore_index=True)
        features = per_feature.table(self.masks.words)
        return _Found(whole, np.concatenate(maps), np.concatenate(curves), features, method, layer, self.refused)

    def _firing(self, rows: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
        """L_i ∩ D of these rows bool[n, D], and what the maps are summed with float32[n, D]: 1 for each, -1 for signed ones."""
        import numpy as np

        from sslviz.analysis import expression

        h = expression.unit_rows(self.embedded.store.read(rows))
        fires = expression.firing(h, self.eps) & self.chosen
        weights = fires.astype(np.float32)
        if self.settings.signed:
            weights -= expression.firing(-h, self.eps) & self.chosen
        return fires, weights

    def _named(self, sample_id: str, picture: tuple[int, int]) -> "dict[str, np.ndarray]":
        """The parts of a picture that workers have named."""
        return self.masks.features(sample_id, picture, self.spec.resize, self.spec.size) if self.masks.words else {}

    def _batches(self, samples: "pd.DataFrame") -> "Iterator[_Batch]":
        """The samples whose picture and masks can be read; the others are noted in `refused`."""
        from sslviz.data.loading import ahead, read_picture

        root, spec = self.embedded.dataset.root, self.spec
        assert root is not None
        n = readers(self.settings.workers)
        pictures = ahead(
            lambda s: read_picture(root / s, spec.resize, spec.size, thumb=False),
            samples["sample_id"].tolist(),
            n,
            4 * n + 2 * _BATCH,
        )
        for start in range(0, len(samples), _BATCH):
            part = samples.iloc[start : start + _BATCH]
            batch = _Batch([], part["row"].to_numpy(), [], [], [])
            kept = []
            for place, sample_id in enumerate(part["sample_id"]):
                loaded = next(pictures)
                try:
                    if loaded.pixels is None:
                        raise InputError(f"{sample_id} {loaded.error}.")
                    masks = self.masks.read(sample_id, (loaded.width, loaded.height), spec.resize, spec.size)
                except InputError as error:
                    self.refused.append(str(error).rstrip("."))
                    self.progress.advance()
                    continue
                kept.append(place)
                batch.ids.append(sample_id)
                batch.pixels.append(loaded.pixels)
                batch.masks.append(masks)
                batch.sizes.append((loaded.width, loaded.height))
            if kept:
                yield batch._replace(rows=batch.rows[kept])


class _Batch(NamedTuple):
    ids: list[str]
    rows: "np.ndarray"
    """Of the embeddings."""
    pixels: list[Any]
    masks: "list[dict[str, np.ndarray]]"
    sizes: list[tuple[int, int]]
    """Width and height of each picture."""
