"""For every feature: the samples it is strongest, middling and weakest in, its spread, and how often it fires in each class."""

from typing import Any

import numpy as np
import pandas as pd

from sslviz.analysis import expression
from sslviz.arrays import check_embeddings, check_eps, check_labels, positions

PER_KIND = 12
BINS = 30
MAX_SPREAD_ROWS = 10_000
"""Rows, at most, that middling samples and histograms are taken from; strongest and weakest look at all."""


class FeatureExamples:
    """An accumulator over chunks of ascending rows: `update`, then `examples`, `spread`, `class_shares`; of L2-normalised rows.

    `spread_rows` int[M]: the row numbers that histograms and middling samples are taken from. Memory O(M * D + classes * D).
    """

    def __init__(self, width: int, n_classes: int, eps: float, spread_rows: np.ndarray) -> None:
        self.eps = check_eps(eps)
        self.width = width
        self._best = {kind: (np.empty((0, width), np.float32), np.empty((0, width), np.int64)) for kind in ("top", "low")}
        self._fires = np.zeros((n_classes, width), np.int64)
        self._of_class = np.zeros(n_classes, np.int64)
        self._spread_rows = np.sort(spread_rows)
        self._spread = np.zeros((len(spread_rows), width), np.float32)

    def update(self, H: np.ndarray, rows: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> "FeatureExamples":
        """H float[n, D], their row numbers int[n] and labels int[n] (-1 unknown); `counted` bool[n]: enters the class shares.

        Raises InputError: wrong rank, NaN or infinity, lengths that differ.
        """
        H = check_embeddings(H).astype(np.float32, copy=False)
        labels = check_labels(labels, len(H), "labels")
        unit = expression.unit_rows(H)
        self._keep_extremes("top", unit, rows)
        self._keep_extremes("low", -unit, rows)
        place = positions(rows, self._spread_rows)
        self._spread[place[place >= 0]] = unit[place >= 0]
        known = counted & (labels >= 0)
        if known.any():
            part, of = unit[known], labels[known]
            fires = expression.firing(part, self.eps)
            order = np.argsort(of, kind="stable")
            starts = np.flatnonzero(np.diff(of[order], prepend=-1))
            self._fires[of[order][starts]] += np.add.reduceat(fires[order], starts, axis=0, dtype=np.int64)
            self._of_class += np.bincount(of, minlength=len(self._of_class))
        return self

    def _keep_extremes(self, kind: str, values: np.ndarray, rows: np.ndarray) -> None:
        """Merge the largest values of a chunk into the PER_KIND largest of each feature; equal values go by row number."""
        best, best_rows = self._best[kind]
        if len(best) == PER_KIND:  # later rows enter only by a larger value; most chunks bring few
            near = (values > best[-1]).any(1)
            values, rows = values[near], rows[near]
            if len(values) == 0:
                return
        place = _largest(values, min(PER_KIND, len(values)))
        all_values = np.concatenate([best, np.take_along_axis(values, place, 0)])
        all_rows = np.concatenate([best_rows, rows[place]])
        order = np.lexsort((all_rows, -all_values), axis=0)[:PER_KIND]
        self._best[kind] = np.take_along_axis(all_values, order, 0), np.take_along_axis(all_rows, order, 0)

    def examples(self) -> pd.DataFrame:
        """feature, kind (top, middle, low), rank, row, value: PER_KIND rows a kind, strongest (or weakest) first."""
        tables = [self._table("top", *self._best["top"])]
        if len(self._spread_rows):
            n = len(self._spread_rows)
            k = min(PER_KIND, n)
            order = np.argsort(self._spread, axis=0, kind="stable")[(n - k) // 2 : (n - k) // 2 + k][::-1]
            tables.append(self._table("middle", np.take_along_axis(self._spread, order, 0), self._spread_rows[order]))
        low, low_rows = self._best["low"]
        tables.append(self._table("low", -low, low_rows))
        return pd.concat(tables, ignore_index=True)

    def _table(self, kind: str, values: np.ndarray, rows: np.ndarray) -> pd.DataFrame:
        k = len(values)
        return pd.DataFrame(
            {
                "feature": np.repeat(np.arange(self.width), k),
                "kind": kind,
                "rank": np.tile(np.arange(k), self.width),
                "row": rows.T.ravel(),
                "value": values.T.ravel(),
            }
        )

    def spread(self) -> pd.DataFrame:
        """feature, low, high, counts (list of BINS): histogram of the values over the spread rows."""
        low = self._spread.min(0, initial=np.inf)
        high = np.maximum(self._spread.max(0, initial=-np.inf), low + 1e-4)
        counts: list[Any] = [
            np.histogram(column, BINS, (a, b))[0] for column, a, b in zip(self._spread.T, low, high, strict=True)
        ]
        return pd.DataFrame({"feature": np.arange(self.width), "low": low, "high": high, "counts": counts})

    def class_shares(self) -> pd.DataFrame:
        """feature, label, share: percent of a class's counted samples in which the feature fires; classes with samples only."""
        there = np.flatnonzero(self._of_class)
        share = 100.0 * self._fires[there] / self._of_class[there, None]
        return pd.DataFrame(
            {
                "feature": np.tile(np.arange(self.width), len(there)),
                "label": np.repeat(there, self.width),
                "share": share.ravel().astype(np.float32),
            }
        )


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Row positions int[k, D], ascending, of the k largest values[n, D] of each column; of equal ones the first."""
    least = -np.partition(-values, k - 1, axis=0)[k - 1]
    kept = values > least
    tied = values == least
    kept |= tied & (tied.cumsum(0, dtype=np.int32) <= k - kept.sum(0))
    return np.nonzero(kept.T)[1].reshape(values.shape[1], k).T
