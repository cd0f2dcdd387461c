"""A map of the embeddings: unit rows, PCA to at most 50 dimensions, UMAP to two (McInnes et al., arXiv 1802.03426).

Where there are fewer different rows than UMAP's neighbourhoods need, the first two principal components stand in, by name.
"""

import hashlib
from typing import Any, Literal

import numpy as np
import pandas as pd

from sslviz.analysis import expression
from sslviz.arrays import check_embeddings

DIMENSIONS = 50
FEWEST = 16
"""Different rows below which UMAP does not run: its 15 neighbours and the row itself."""
MAX_FIT_ROWS = 50_000


class Projection:
    """Fitted on some rows, it places others beside them. Equal rows lie on one spot.

    method: "umap", or "pca" where there are fewer than 16 different rows. The same seed and rows give the same map.
    """

    method: Literal["umap", "pca"]

    def __init__(self, neighbours: int = 15, min_dist: float = 0.1, seed: int = 0) -> None:
        self.neighbours, self.min_dist, self.seed = neighbours, min_dist, seed

    def fit(self, H: np.ndarray) -> np.ndarray:
        """H float[N, D], N >= 1 -> coordinates float32[N, 2], finite. Raises InputError: wrong rank, empty, NaN or infinity."""
        from sklearn.decomposition import PCA

        unit = _unit(H)
        self._pca = None
        if (unit != unit[0]).any():
            self._pca = PCA(min(DIMENSIONS, *unit.shape), svd_solver="randomized", random_state=self.seed).fit(unit)
        reduced = self._reduce(unit)
        which, different = pd.factorize(np.array([hashlib.blake2b(row, digest_size=16).hexdigest() for row in unit]))
        first = np.unique(which, return_index=True)[1]  # in the rows' own order
        scale = np.abs(reduced).max() or 1.0
        about = len(np.unique(np.round(reduced / scale, 5), axis=0))  # equal images may differ in their last bits
        self.n_different = min(len(different), about)
        self.method = "umap" if self.n_different >= FEWEST else "pca"
        if self.method == "pca":
            return self._first_two(reduced)
        placed: np.ndarray = self._new_umap(len(first)).fit_transform(reduced[first])
        return np.asarray(placed[which], np.float32)

    def transform(self, H: np.ndarray) -> np.ndarray:
        """Coordinates float32[n, 2] of other rows on the map that was fitted."""
        reduced = self._reduce(_unit(H))
        return self._first_two(reduced) if self.method == "pca" else np.asarray(self._umap.transform(reduced), np.float32)

    def _new_umap(self, n: int) -> Any:
        import umap

        neighbours = min(self.neighbours, n - 1)
        self._umap = umap.UMAP(
            n_neighbors=neighbours, min_dist=self.min_dist, init="pca", random_state=self.seed, n_jobs=1, low_memory=True
        )
        return self._umap

    def _reduce(self, unit: np.ndarray) -> np.ndarray:
        if self._pca is None:
            return np.zeros((len(unit), 1), np.float32)
        return np.asarray(self._pca.transform(unit), np.float32)

    @staticmethod
    def _first_two(reduced: np.ndarray) -> np.ndarray:
        out = np.zeros((len(reduced), 2), np.float32)
        out[:, : reduced.shape[1]] = reduced[:, :2]
        return out


def _unit(H: np.ndarray) -> np.ndarray:
    return np.asarray(expression.unit_rows(check_embeddings(H).astype(np.float32, copy=False)))
