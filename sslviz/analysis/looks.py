"""What heatmaps and masks have in common, summed up: by right and wrong, by threshold, by feature."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sslviz.analysis.masks import IOUS, METRICS, centre_blob, threshold_curve
from sslviz.analysis.resampling import resampled_means
from sslviz.arrays import check_maps

WHO = {
    "map": "heatmaps",
    "blob": "centre blob",
    "uniform": "uniform map",
    "shuffled": "another image's",
    "ceiling": "mask at their size",
}
"""Whose overlap: the heatmap's; of three that know nothing of the image; and, of IoUs, the mask's own as a map of that size."""
KINDS = ("core", "spurious")
THRESHOLDS = np.round(np.arange(0.1, 0.95, 0.1), 2)
MASK_THRESHOLDS = np.array([0.25, 0.5, 0.75])
_LEAST_SUPPORT, _LEAST_IMAGES = 3, 10


def shrunk(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Masks [n, S, S] averaged over the places of a map of this size: float32[n, h, w]."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    pooled = adaptive_avg_pool2d(torch.from_numpy(mask).float()[:, None], (size[0], size[1]))
    found: np.ndarray = pooled[:, 0].numpy()
    return found


def overlaps(
    raw: np.ndarray,
    masks: list[dict[str, np.ndarray]],
    finish: Callable[[np.ndarray], np.ndarray],
    threshold: float,
    mask_threshold: float,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What a batch of maps has in common with its masks: columns <kind>_<metric>_<who> float64[n], and `mask_iou` over both
    thresholds float64[n, kind, THRESHOLDS, MASK_THRESHOLDS]. NaN where an image has no mask of a kind.

    raw float[n, h, w] · masks: of each image kind -> uint8[S, S] · finish: makes raw maps heatmaps float[n, S, S] in 0..1.
    """
    heat = finish(raw)
    n, height, width = heat.shape
    others = {
        "map": heat,
        "blob": np.broadcast_to(centre_blob(height, width), heat.shape),
        "uniform": np.ones_like(heat),
        "shuffled": np.roll(heat, 1, 0) if n > 1 else heat,
    }
    columns: dict[str, np.ndarray] = {}
    curves = []
    for kind in KINDS:
        there = np.array([kind in found for found in masks])
        mask = np.stack([found.get(kind, np.zeros((height, width), np.uint8)) for found in masks])
        for who, given in {**others, "ceiling": finish(shrunk(mask, raw.shape[1:]))}.items():
            maps, core = check_maps(given, mask)
            hot, marked = maps >= threshold, core >= mask_threshold
            counts = there & ((who != "shuffled") | (n > 1))
            for name, measure in METRICS.items():
                if who != "ceiling" or name in IOUS:
                    columns[f"{kind}_{name}_{who}"] = np.where(counts, measure(maps, hot, marked), np.nan)
        curve = np.stack([threshold_curve(heat, mask, THRESHOLDS, float(m)) for m in MASK_THRESHOLDS], 2)
        curves.append(np.where(there[:, None, None], curve, np.nan))
    return columns, np.stack(curves, 1)


class FeatureOverlaps:
    """For each feature, over the images it fires in: the share of its own map inside each mask, and inside named parts."""

    def __init__(self, width: int, mask_threshold: float) -> None:
        self.mask_threshold = mask_threshold
        self.n = np.zeros(width, np.int64)
        self.n_with = {kind: np.zeros(width, np.int64) for kind in KINDS}
        self.inside = {kind: np.zeros(width) for kind in ("core", "spurious", "core_area", "spurious_area")}
        self.named: dict[tuple[int, str], tuple[float, int]] = {}

    def update(
        self, maps: np.ndarray, fires: np.ndarray, masks: list[dict[str, np.ndarray]], named: list[dict[str, np.ndarray]]
    ) -> None:
        """maps float[n, D, h, w]; fires bool[n, D]; of each image masks: kind -> uint8[S, S], and named: part -> uint8[S, S]."""
        positive = maps.clip(min=0)
        self.n += fires.sum(0)

        def area(mask: np.ndarray) -> np.ndarray:
            found: np.ndarray = shrunk(mask[None] >= 255 * self.mask_threshold, maps.shape[2:])[0]
            return found

        for i, which in enumerate(map(np.flatnonzero, fires)):
            mass = positive[i, which].sum((1, 2))
            share = positive[i, which] / np.where(mass > 0, mass, 1)[:, None, None]
            for kind, mask in masks[i].items():
                marked = area(mask)
                self.n_with[kind][which] += 1
                self.inside[kind][which] += (share * marked).sum((1, 2))
                self.inside[f"{kind}_area"][which] += marked.mean()
            for part, mask in named[i].items():
                overlap = (share * area(mask)).sum((1, 2))
                for j, value in zip(which.tolist(), overlap.tolist(), strict=True):
                    total, n = self.named.get((j, part), (0.0, 0))
                    self.named[j, part] = (total + value, n + 1)

    def table(self, words: dict[str, list[str]]) -> pd.DataFrame:
        """feature, n, core and spurious (mean share of the map inside), core_area and spurious_area (what a uniform map has), and
        of named parts the one it overlaps most: name, overlap, support (images)."""
        seen = np.flatnonzero(self.n)
        table = pd.DataFrame({"feature": seen, "n": self.n[seen]})
        for kind, total in self.inside.items():
            n = self.n_with[kind.removesuffix("_area")][seen]
            table[kind] = np.divide(total[seen], n, out=np.full(len(seen), np.nan), where=n > 0)
        best: dict[int, tuple[float, str, int]] = {}
        for (j, part), (overlaps, support) in self.named.items():
            if support >= _LEAST_SUPPORT and overlaps > 0:
                best[j] = max(best.get(j, (0.0, "", 0)), (overlaps / support, part, support))
        table["name"] = [_word(words.get(best[j][1], [])) if j in best else "" for j in seen.tolist()]
        table["overlap"] = [best[j][0] if j in best else np.nan for j in seen.tolist()]
        table["support"] = [best[j][2] if j in best else 0 for j in seen.tolist()]
        return table


def _word(reasons: list[str]) -> str:
    """The reason most workers gave, the first of equals."""
    return Counter(r.lower() for r in reasons).most_common(1)[0][0] if reasons else ""


def _parts(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    parts = {"all": table, "correct": table[table["correct"].eq(True).fillna(False)]}
    parts["wrong"] = table[table["correct"].eq(False).fillna(False)]
    with_both = table[[f"{kind}_iou_uniform" for kind in KINDS]].notna().all(axis=1)
    if with_both.any() and not with_both.all():
        parts["both masks"] = table[with_both]
    return {name: part for name, part in parts.items() if len(part)}


def groups(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """kind, group, metric, who -> mean, 95 % interval, n: of all images, of those the probe gets right and wrong, and where some
    have one kind of mask only of those with both."""
    found = []
    for group, part in _parts(table).items():
        columns = [c for c in product(KINDS, METRICS, WHO) if "_".join(c) in part]
        values = part[["_".join(c) for c in columns]].to_numpy(dtype=float)
        spans = _intervals(values, seed)
        for (kind, metric, who), column, span in zip(columns, values.T, spans, strict=True):
            n = int((~np.isnan(column)).sum())
            line: dict[str, Any] = {"kind": kind, "group": group, "metric": metric, "who": who, "n": n}
            found.append({**line, "mean": float(np.nanmean(column)) if n else None, "interval": span})
    return found


def _intervals(values: np.ndarray, seed: int) -> list[list[float] | None]:
    """95 % of each column's mean, float[n, m] with NaN for what is undefined: percentile bootstrap over the rows that are not;
    None where there are fewer than ten."""
    spans: list[list[float] | None] = [None] * values.shape[1]
    known = ~np.isnan(values)
    patterns, which = np.unique(known, axis=1, return_inverse=True)
    for k in range(patterns.shape[1]):
        columns = np.flatnonzero(which == k)
        if patterns[:, k].sum() >= _LEAST_IMAGES:
            means = resampled_means(values[patterns[:, k]][:, columns], np.random.default_rng(seed))
            for column, span in zip(columns, np.percentile(means, [2.5, 97.5], axis=0).T.tolist(), strict=True):
                spans[column] = span
    return spans


def differences(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """What the paper claims, as differences of mIoU with intervals: core above spurious; right above wrong. Beside each, what is
    left of it beyond a blob in the middle, which gains too where objects are larger. Of fewer than ten images: no interval."""
    rng = np.random.default_rng(seed)
    parts, found = _parts(table), []

    def add(what: str, of: str, more: np.ndarray, less: np.ndarray | None = None) -> None:
        both = [more] if less is None else [more, less]
        if not all(map(len, both)):
            return
        draws = [resampled_means(values[:, None], rng)[:, 0] for values in both]
        gap = draws[0] if less is None else draws[0] - draws[1]
        span = np.percentile(gap, [2.5, 97.5]).tolist() if min(map(len, both)) >= _LEAST_IMAGES else None
        mean = float(more.mean() - (0 if less is None else less.mean()))
        found.append({"what": what, "of": of, "mean": mean, "interval": span})

    for group, part in parts.items():
        add("core - spurious", group, (part["core_iou_map"] - part["spurious_iou_map"]).dropna().to_numpy(dtype=float))
        add("core - blob", group, _beyond_blob(part, "core"))
    if {"correct", "wrong"} <= set(parts):
        for kind in KINDS:
            plain = [parts[g][f"{kind}_iou_map"].dropna().to_numpy(dtype=float) for g in ("correct", "wrong")]
            above = [_beyond_blob(parts[g], kind) for g in ("correct", "wrong")]
            for what, (right, wrong) in (("correct - wrong", plain), ("correct - wrong, beyond the blob", above)):
                add(what, kind, right, wrong)
    return found


def neither(table: pd.DataFrame) -> float | None:
    """Mean share of the heat that lies outside both masks, over the images with both kinds and positive evidence; None without
    such an image."""
    part = table.loc[~table["zero"].astype(bool), ["core_mass_map", "spurious_mass_map"]].dropna()
    return float((1 - part.sum(axis=1)).clip(lower=0).mean()) if len(part) else None


def _beyond_blob(table: pd.DataFrame, kind: str) -> np.ndarray:
    found: np.ndarray = (table[f"{kind}_iou_map"] - table[f"{kind}_iou_blob"]).dropna().to_numpy(dtype=float)
    return found


def curve(table: pd.DataFrame, curves: np.ndarray) -> pd.DataFrame:
    """mIoU by kind, group, heatmap threshold and mask threshold; curves: those of `overlaps`, row by row of the table."""
    rows = []
    for group, part in _parts(table).items():
        mine = curves[part.index]
        for k, kind in enumerate(KINDS):
            for t, threshold in enumerate(THRESHOLDS):
                for m, mask_threshold in enumerate(MASK_THRESHOLDS):
                    values = mine[:, k, t, m]
                    mean = float(np.nanmean(values)) if not np.isnan(values).all() else None
                    rows.append((kind, group, float(threshold), float(mask_threshold), mean))
    return pd.DataFrame(rows, columns=["kind", "group", "threshold", "mask_threshold", "miou"])
