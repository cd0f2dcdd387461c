"""The compiled pass over rows: for arrays and for the streaming accumulators.

Its twin is the differentiable expression in `expression.py`; tests/contracts holds both to tests/reference.py. A row is read
from memory once: its moments, its firing features and its score are all taken while it lies in the cache. Comparisons
are made on the row as it is, h_j > mean + eps * std, which is the same as on the L2-normalised row.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import numba
import numpy as np

from sslviz.arrays import check_finite

FLAT = 1e-6
"""A row whose standard deviation is below this share of its mean is constant up to rounding: nothing fires in it (ours)."""

_BLOCK_BYTES = 8 << 20
_njit = cast(Callable[..., Any], numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"}))


class RowScores(NamedTuple):
    """Per sample, each [N]: Q-Score, number of firing features |L|, of firing discriminative ones |L ∩ D|, L2 norm of the
    raw row, population standard deviation of the L2-normalised row."""

    q: np.ndarray
    n_firing: np.ndarray
    n_chosen: np.ndarray
    norm: np.ndarray
    std: np.ndarray


@_njit
def _moments(row: np.ndarray) -> tuple[float, float, float]:
    total = squares = centred = row.dtype.type(0)
    for j in range(row.size):
        total += row[j]
    mean = row.dtype.type(total / row.size)
    for j in range(row.size):
        d = row[j] - mean
        centred += d * d
        squares += row[j] * row[j]
    if 1e-30 < squares < 1e30:
        return mean, np.sqrt(centred / row.size), np.sqrt(squares)
    largest = 0.0
    for j in range(row.size):
        largest = max(largest, abs(np.float64(row[j])))
    wide = wide_squares = 0.0  # squares left the range of float32 (or the row is zero)
    for j in range(row.size):
        wide += (np.float64(row[j]) - mean) ** 2
        wide_squares += np.float64(row[j]) ** 2
    if not abs(mean) < np.inf or (wide_squares == 0 and largest > 0):  # sum or squares left that of float64 too: see _sizes
        return mean, np.inf, np.inf
    return mean, np.sqrt(wide / row.size), np.sqrt(wide_squares)


@_njit
def _count(H: np.ndarray, eps: np.ndarray, counts: np.ndarray) -> int:
    """Adds to counts; returns the number of zero rows, or -1 when a row is not finite."""
    zero = 0
    for i in range(H.shape[0]):
        row = H[i]
        mean, std, norm = _moments(row)
        if not norm < np.inf:
            return -1
        if norm == 0:
            zero += 1
        if norm == 0 or std <= FLAT * abs(mean):
            continue
        for k in range(eps.size):
            threshold = row.dtype.type(mean + eps[k] * std)
            line = counts[k]
            for j in range(row.size):
                line[j] += row[j] > threshold
    return zero


@_njit
def _score(H: np.ndarray, chosen: np.ndarray, eps: float, out: np.ndarray) -> None:
    zero = H.dtype.type(0)
    one = H.dtype.type(1)
    for i in range(H.shape[0]):
        row = H[i]
        mean, std, norm = _moments(row)
        excess = firing = used = zero  # counts in the row's own type keep the loop one of vectors; exact up to 2^24 features
        if norm > 0 and std > FLAT * abs(mean):
            threshold = row.dtype.type(mean + eps * std)
            for j in range(row.size):
                fires = one if row[j] > threshold else zero
                both = fires * chosen[j]
                firing += fires
                used += both
                excess += (row[j] - mean) * both
        out[0, i] = excess / norm / used if used else 0.0
        out[1, i] = firing
        out[2, i] = used
        out[3, i] = norm
        out[4, i] = std / norm if norm > 0 else 0.0


def count_firing(H: np.ndarray, eps: np.ndarray) -> tuple[np.ndarray, int]:
    """How many rows of H[N, D] each feature fires in: int64[len(eps), D], one row for each eps; and the number of zero rows.

    Raises InputError naming the first value that is not finite: the pass itself notices, no extra one is needed.
    """

    def count(block: np.ndarray) -> tuple[np.ndarray, int]:
        counts = np.zeros((len(eps), H.shape[1]), np.int32)
        return counts, _count(block, eps, counts)

    total, zero = np.zeros((len(eps), H.shape[1]), np.int64), 0
    for counts, n in _over_blocks(count, H):
        if n < 0:
            check_finite(H)
            return count_firing(H / _sizes(H), eps)
        total += counts
        zero += n
    return total, zero


def score_rows(H: np.ndarray, features: np.ndarray, eps: float) -> RowScores:
    """Q-Score and companions of every row of H[N, D] for the discriminative `features` int[K].

    Raises InputError naming the first value that is not finite.
    """
    chosen = np.zeros(H.shape[1], H.dtype if H.dtype.itemsize >= 4 else np.float32)
    chosen[features] = 1

    def score(block: np.ndarray) -> np.ndarray:
        out = np.empty((5, len(block)))
        _score(block, chosen, eps, out)
        return out

    q, firing, used, norm, std = np.concatenate(list(_over_blocks(score, H)), axis=1)
    if not np.isfinite(norm).all():
        check_finite(H)
        sizes = _sizes(H)
        found = score_rows(H / sizes, features, eps)
        return found._replace(norm=found.norm * sizes[:, 0])
    return RowScores(q, firing.astype(np.int64), used.astype(np.int64), norm, std)


def _sizes(H: np.ndarray) -> np.ndarray:
    """What rows are divided by whose squares leave the range: their largest absolute values [N, 1], 1 for zero rows."""
    sizes: np.ndarray = np.abs(H).max(1, keepdims=True)
    return np.where(sizes > 0, sizes, 1)


def _over_blocks(work: Callable[[np.ndarray], Any], H: np.ndarray) -> Iterator[Any]:
    rows = max(1, _BLOCK_BYTES // (H.shape[1] * 8))
    blocks = (H[start : start + rows] for start in range(0, len(H), rows))

    def widened(block: np.ndarray) -> Any:
        wide = block.astype(np.float64 if block.dtype == np.float64 else np.float32, copy=False)
        return work(np.ascontiguousarray(wide))

    if len(H) <= rows:
        yield from map(widened, blocks)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(widened, blocks)
