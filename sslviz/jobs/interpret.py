"""Where does the encoder look? Heatmaps of the features that make the Q-Score, against masks of object and surroundings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sslviz.errors import InputError, NotFound, Stale, shown
from sslviz.jobs import Settings, job
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
    encoder: str = Field(description="encoder in the workspace, or a checkpoint file")
    method: Literal["auto", "activation", "gradcam"] = Field("auto", description="auto: activation maps where they are exact")
    threshold: float = Field(0.5, gt=0, le=1, description="a heatmap's area is where it is at least this")
    mask_threshold: float = Field(0.5, gt=0, le=1, description="a mask's area is where it is at least this")
    signed: bool = Field(False, description="(ours) for transformers: features far below their mean explain too, negated")
    workers: int = Field(2, ge=1, le=128, description="threads that read and decode images")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU if there is one")
    seed: int = Field(0, ge=0, description="of shuffling, folds and intervals")


@job("interpret", InterpretSettings, example="sslviz interpret --dataset demo --encoder simclr-demo")
def interpret(settings: InterpretSettings, workspace: Workspace, progress: Progress) -> dict[str, Any]:
    """Measure how far heatmaps cover object and surroundings, for images the probe gets right and wrong, beside base rates."""
    import numpy as np
    import pandas as pd

    from sslviz.analysis import looks
    from sslviz.data.masks import load_masks
    from sslviz.encoders.run import load_encoder, pick_device
    from sslviz.jobs.inputs import open_embedded
    from sslviz.store.files import only_writer
    from sslviz.store.results import save_result

    embedded = open_embedded(workspace, settings.dataset, settings.encoder)
    masks = load_masks(embedded.dataset)
    if masks is None or embedded.dataset.root is None:
        raise NotFound(
            f'data set "{settings.dataset}" has no masks. Add them: '
            f"sslviz data add {settings.dataset} {embedded.dataset.root or 'FOLDER'} --masks FOLDER"
        )
    scores = _fresh(workspace, embedded, "score")
    progress.stage("joining masks and predictions")
    samples, notes = _with_masks(embedded, masks)
    samples, more = _answered(samples, embedded, settings, workspace, progress)
    notes += more
    encoder = load_encoder(workspace, settings.encoder, pick_device(settings.device))
    found = _Look(settings, encoder, embedded, masks, scores, progress).all(samples)
    if not len(found.rows):
        raise InputError(f"none of the {len(samples):,} masks could be used: {shown(found.refused, 3)}.")
    notes += found.notes
    table = found.rows.merge(samples[["sample_id", "split", "label", "correct"]], on="sample_id", how="left")
    summary = {
        "judged_on": str(samples["split"].iloc[0]),
        "n": len(table),
        "n_correct": int(table["correct"].eq(True).sum()),
        "n_wrong": int(table["correct"].eq(False).sum()),
        "n_zero": int(table["zero"].sum()),
        "n_empty_core": int(table["core_iou_map"].isna().sum()),
        "refused": found.refused,
        "method": found.method,
        "layer": found.layer,
        "map_size": list(found.map_size),
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
    inputs = {**embedded.inputs, "score": scores.key, "masks": masks.fingerprint}
    maps = pd.DataFrame(
        {"sample_id": found.rows["sample_id"], "map": list(found.maps.reshape(len(found.maps), -1).astype(np.float32))}
    )
    tables = {"looks": table, "maps": maps, "curve": looks.curve(table, found.curves, *found.grid), "features": found.features}
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
    """The samples of one split that have a core mask: of the judged one, else of train."""
    marked = embedded.samples[embedded.samples["sample_id"].isin(masks.samples())]
    split = embedded.judged_on if embedded.judged_on in set(marked["split"]) else "train"
    part = marked[marked["split"] == split]
    if part.empty:
        raise InputError(f'no embedded image of "{embedded.dataset.name}" has a core mask.')
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

    if not embedded.dataset.has_labels:
        return samples.assign(correct=pd.array([pd.NA] * len(samples), "boolean")), [
            "no labels: nothing says which images a probe gets right"
        ]
    state, why, probe = result_state(workspace, embedded.dataset, settings.encoder, "probe")
    if probe is None or state != "fresh":
        return samples.assign(correct=pd.array([pd.NA] * len(samples), "boolean")), [
            f"no fresh probe ({why}): right and wrong are not told apart"
        ]
    predictions = probe.table("predictions", ["sample_id", "correct"])
    joined = samples.merge(predictions, on="sample_id", how="left")
    notes = []
    if samples["split"].iloc[0] == "train":
        notes.append("masks are on train images: right and wrong are those of 5-fold out-of-fold probes")
        if joined["correct"].isna().all():
            progress.stage("predicting train images out of fold")
            train = embedded.samples[(embedded.samples["split"] == "train") & (embedded.samples["label"] >= 0)]
            H, y = embedded.store.read(train["row"].to_numpy()), train["label"].to_numpy()
            l2 = float(probe.content["summary"]["l2"])
            said, _ = while_checking(lambda: out_of_fold(H, y, l2, seed=settings.seed), progress)
            joined["correct"] = samples["sample_id"].map(pd.Series(said == y, index=train["sample_id"]))
    joined["correct"] = joined["correct"].astype("boolean")
    return joined, notes


@dataclass
class _Found:
    rows: "pd.DataFrame"
    maps: "np.ndarray"
    map_size: tuple[int, int]
    curves: "np.ndarray"
    """mask_iou float[n, kind, threshold, mask threshold]."""
    grid: "tuple[np.ndarray, np.ndarray]"
    features: "pd.DataFrame"
    method: str
    layer: str
    refused: list[str]
    notes: list[str]


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
        import numpy as np

        from sslviz.analysis.looks import FeatureOverlaps

        self.settings, self.encoder, self.embedded, self.masks, self.progress = settings, encoder, embedded, masks, progress
        table = scores.table("features", ["feature", "chosen"])
        self.chosen = np.zeros(len(table), bool)
        self.chosen[table.loc[table["chosen"], "feature"].to_numpy()] = True
        self.eps = float(scores.content["summary"]["eps"])
        self.spec = encoder.spec.input
        self.refused: list[str] = []
        self.per_feature = FeatureOverlaps(len(self.chosen))

    def all(self, samples: "pd.DataFrame") -> _Found:
        import numpy as np
        import pandas as pd

        from sslviz.heatmaps.layers import Subject

        order = samples.iloc[np.random.default_rng(self.settings.seed).permutation(len(samples))]
        self.thresholds = np.round(np.arange(0.1, 0.95, 0.1), 2)
        self.mask_thresholds = np.array([0.25, 0.5, 0.75])
        rows, maps, curves = [], [], []
        method, size = self.settings.method, (0, 0)
        self.progress.stage("looking", len(samples))
        with Subject(self.encoder) as subject:
            for part, pixels in self._batches(order):
                inputs = subject.inputs(pixels)
                if method == "auto":
                    method = "activation" if subject.is_exact(None) else "gradcam"
                layer, size = subject.layer(None), subject.map_size(None)
                raw, found = self._one_batch(subject, inputs, method, part)
                rows.append(found)
                maps.append(raw)
                curves.append(self._curves)
                self.progress.advance(len(part))
        whole = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
        notes = []
        if self.refused:
            notes.append(f"{len(self.refused)} images left out: {shown(self.refused, 3)}")
        if rows and (n_zero := int(whole["zero"].sum())):
            notes.append(f"{n_zero:,} images have a map without positive evidence (often an empty set); they count as 0")
        if rows and method == "gradcam":
            notes.append("single features have no table here: each would take a backward pass of its own")
        return _Found(
            whole,
            np.concatenate(maps) if maps else np.zeros((0, 0, 0)),
            size,
            np.concatenate(curves) if curves else np.zeros((0, 0, 0, 0)),
            (self.thresholds, self.mask_thresholds),
            self.per_feature.table(self.masks.words),
            method,
            layer.name if rows else "",
            self.refused,
            notes,
        )

    def _batches(self, samples: "pd.DataFrame") -> "Iterator[tuple[pd.DataFrame, Any]]":
        """Rows whose picture and masks can be read, `masks` in their frame beside them, and their pixels uint8[n, 3, S, S]."""
        import pandas as pd
        import torch

        from sslviz.data.loading import ahead, read_picture

        root, spec = self.embedded.dataset.root, self.spec
        assert root is not None
        pictures = ahead(
            lambda s: read_picture(root / s, spec.resize, spec.size, thumb=False),
            samples["sample_id"].tolist(),
            self.settings.workers,
            4 * self.settings.workers + 2 * _BATCH,
        )
        for start in range(0, len(samples), _BATCH):
            part = samples.iloc[start : start + _BATCH]
            kept, pixels, masks = [], [], []
            for place, sample_id in enumerate(part["sample_id"]):
                loaded = next(pictures)
                try:
                    if loaded.pixels is None:
                        raise InputError(f"{sample_id} {loaded.error}.")
                    mask = self.masks.read(sample_id, (loaded.width, loaded.height), spec.resize, spec.size)
                except InputError as error:
                    self.refused.append(str(error).rstrip("."))
                    self.progress.advance()
                    continue
                kept.append(place)
                pixels.append(loaded.pixels)
                masks.append((mask, (loaded.width, loaded.height)))
            if kept:
                yield part.iloc[kept].assign(masks=pd.Series(masks, index=part.index[kept])), torch.stack(pixels)

    def _one_batch(self, subject: Any, inputs: Any, method: str, part: "pd.DataFrame") -> "tuple[np.ndarray, pd.DataFrame]":
        import numpy as np
        import pandas as pd
        import torch

        from sslviz.analysis import expression
        from sslviz.analysis.looks import shrunk
        from sslviz.analysis.masks import METRICS, centre_blob, threshold_curve
        from sslviz.heatmaps import HEATMAPS, finish

        size = (self.spec.size, self.spec.size)
        rows = part["row"].to_numpy()
        order = np.argsort(rows)
        H = np.empty((len(rows), len(self.chosen)), np.float32)
        H[order] = self.embedded.store.read(rows[order])
        h = expression.unit_rows(H)
        fires = expression.firing(h, self.eps) & self.chosen
        weights = fires.astype(np.float32)
        if self.settings.signed:
            weights -= expression.firing(-h, self.eps) & self.chosen
        raw = HEATMAPS[method].maps(subject, inputs, torch.from_numpy(weights), None)
        heat = finish(raw, size).numpy()
        masks = {
            kind: np.stack([found.get(kind, np.zeros(size, np.uint8)) for found, _ in part["masks"]])
            for kind in ("core", "spurious")
        }
        others = {
            "map": heat,
            "blob": np.broadcast_to(centre_blob(*size), heat.shape),
            "uniform": np.ones_like(heat),
            "shuffled": np.roll(heat, 1, 0),
        }
        table: dict[str, Any] = {"sample_id": part["sample_id"].to_numpy(), "zero": heat.max((1, 2)) == 0}
        for kind, mask in masks.items():
            best = finish(torch.from_numpy(shrunk(mask, raw.shape[1:])), size)
            for who, maps in {**others, "ceiling": best.numpy()}.items():
                for name, metric in METRICS.items():
                    threshold = {"threshold": self.settings.threshold} if name.endswith("iou") else {}
                    value = metric(maps, mask, mask_threshold=self.settings.mask_threshold, **threshold)
                    if who == "shuffled" and len(part) == 1:
                        value = np.full(1, np.nan)
                    table[f"{kind}_{name}_{who}"] = value
        self._curves = np.stack(
            [
                np.stack([threshold_curve(heat, mask, self.thresholds, float(m)) for m in self.mask_thresholds], 2)
                for mask in masks.values()
            ],
            1,
        )
        if method == "activation":
            named = [
                self.masks.features(sample_id, picture, self.spec.resize, self.spec.size) if self.masks.words else {}
                for sample_id, (_, picture) in zip(part["sample_id"], part["masks"], strict=True)
            ]
            self.per_feature.update(subject.last_maps(inputs).cpu().numpy(), fires, masks, named)
        return raw.numpy(), pd.DataFrame(table)
