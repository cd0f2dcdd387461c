"""What heatmaps and masks have in common, summed up: by right and wrong, by threshold, by feature."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from sslviz.analysis.masks import METRICS

WHO = ("map", "blob", "uniform", "shuffled", "ceiling")
"""Whose overlap: the heatmap's; three that know nothing of the image; the best that a map of this size can reach."""
_LEAST_SUPPORT = 3


def shrunk(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Masks [n, S, S] averaged over the places of a map of this size: float32[n, h, w]."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    pooled = adaptive_avg_pool2d(torch.from_numpy(mask).float()[:, None], (size[0], size[1]))
    found: np.ndarray = pooled[:, 0].numpy()
    return found


class FeatureOverlaps:
    """For each feature, over the images it fires in: the share of its own map inside each mask, and inside named parts."""

    def __init__(self, width: int) -> None:
        self.n = np.zeros(width, np.int64)
        self.inside = {kind: np.zeros(width) for kind in ("core", "spurious", "core_area", "spurious_area")}
        self.named: dict[tuple[int, str], list[float]] = {}

    def update(
        self, maps: np.ndarray, fires: np.ndarray, masks: dict[str, np.ndarray], named: list[dict[str, np.ndarray]]
    ) -> None:
        """maps float[n, D, h, w] of a batch; fires bool[n, D]; masks uint8[n, S, S]; named: part -> uint8[S, S] of each image."""
        positive = maps.clip(min=0)
        areas = {kind: shrunk(mask >= 128, maps.shape[2:]) for kind, mask in masks.items()}
        self.n += fires.sum(0)
        for i, which in enumerate(map(np.flatnonzero, fires)):
            mass = positive[i, which].sum((1, 2))
            share = positive[i, which] / np.where(mass > 0, mass, 1)[:, None, None]
            for kind, area in areas.items():
                self.inside[kind][which] += (share * area[i]).sum((1, 2))
                self.inside[f"{kind}_area"][which] += area[i].mean()
            for part, mask in named[i].items():
                overlap = (share * shrunk(mask[None] >= 128, maps.shape[2:])[0]).sum((1, 2))
                for j, value in zip(which.tolist(), overlap.tolist(), strict=True):
                    self.named.setdefault((j, part), []).append(value)

    def table(self, words: dict[str, list[str]]) -> pd.DataFrame:
        """feature, n, core and spurious (mean share of the map inside), core_area and spurious_area (what a uniform map has), and
        of named parts the one it overlaps most: name, overlap, support (images)."""
        seen = np.flatnonzero(self.n)
        table = pd.DataFrame({"feature": seen, "n": self.n[seen]})
        for kind, total in self.inside.items():
            table[kind] = total[seen] / self.n[seen]
        best: dict[int, tuple[float, str, int]] = {}
        for (j, part), values in self.named.items():
            if len(values) >= _LEAST_SUPPORT:
                best[j] = max(best.get(j, (-1.0, "", 0)), (float(np.mean(values)), part, len(values)))
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
    return {name: part for name, part in parts.items() if len(part)}


def groups(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """kind, group, metric, who -> mean, 95 % interval, n: of all images and of those the probe gets right and wrong."""
    draws: dict[int, np.ndarray] = {}
    found = []
    for group, part in _parts(table).items():
        for kind, metric, who in product(("core", "spurious"), METRICS, WHO):
            values = part[f"{kind}_{metric}_{who}"].to_numpy(dtype=float)
            known = values[~np.isnan(values)]
            line: dict[str, Any] = {"kind": kind, "group": group, "metric": metric, "who": who, "n": len(known)}
            mean, interval = None, None
            if len(known):
                if len(known) not in draws:
                    draws[len(known)] = _resamples(len(known), np.random.default_rng(seed))
                weights = draws[len(known)]
                mean, interval = float(known.mean()), np.percentile(weights @ known, [2.5, 97.5]).tolist()
            found.append({**line, "mean": mean, "interval": interval})
    return found


def _resamples(n: int, rng: np.random.Generator) -> np.ndarray:
    """Weights float[1000, n] of bootstrap means."""
    weights: np.ndarray = rng.multinomial(n, np.full(n, 1 / n), size=1000) / n
    return weights


def differences(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """What the paper claims, as differences of mIoU with intervals: core above spurious; right above wrong."""
    rng = np.random.default_rng(seed)
    parts, found = _parts(table), []

    def add(what: str, of: str, mean: float, draws: np.ndarray) -> None:
        found.append({"what": what, "of": of, "mean": mean, "interval": np.percentile(draws, [2.5, 97.5]).tolist()})

    for group, part in parts.items():
        gap = (part["core_iou_map"] - part["spurious_iou_map"]).dropna().to_numpy(dtype=float)
        if len(gap):
            add("core - spurious", group, float(gap.mean()), _resamples(len(gap), rng) @ gap)
    if {"correct", "wrong"} <= set(parts):
        for kind in ("core", "spurious"):
            right, wrong = (parts[g][f"{kind}_iou_map"].dropna().to_numpy(dtype=float) for g in ("correct", "wrong"))
            if len(right) and len(wrong):
                means = [_resamples(len(values), rng) @ values for values in (right, wrong)]
                add("correct - wrong", kind, float(right.mean() - wrong.mean()), means[0] - means[1])
    return found


def curve(table: pd.DataFrame, curves: np.ndarray, thresholds: np.ndarray, mask_thresholds: np.ndarray) -> pd.DataFrame:
    """mIoU by kind, group, heatmap threshold and mask threshold."""
    rows = []
    for group, part in _parts(table).items():
        mine = curves[part.index]
        for k, kind in enumerate(("core", "spurious")):
            for t, threshold in enumerate(thresholds):
                for m, mask_threshold in enumerate(mask_thresholds):
                    values = mine[:, k, t, m]
                    mean = float(np.nanmean(values)) if not np.isnan(values).all() else None
                    rows.append((kind, group, float(threshold), float(mask_threshold), mean))
    return pd.DataFrame(rows, columns=["kind", "group", "threshold", "mask_threshold", "miou"])
