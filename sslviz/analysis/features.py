"""Highly activating and discriminative features (Kalibhat et al., AAAI 2024, section 3; docs/method.md 1)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sslviz.analysis import expression
from sslviz.analysis.rows import count_firing
from sslviz.arrays import Array, as_numpy, check_embeddings, check_eps, check_percentiles, is_torch
from sslviz.errors import InputError

EPS = 4.0
LOWER, UPPER = 50.0, 95.0
AUTO_SHARE = 3.7
"""Mean activation share, in percent, of the paper's SimCLR ResNet-50 on ImageNet at eps 4 (read off Fig. 1)."""
EPS_GRID = np.arange(1, 33) * 0.25


@dataclass(frozen=True, eq=False)
class FeatureSelection:
    """The discriminative features of an encoder on a train set, and the eps they were found with.

    features int64[K] sorted · eps · lower, upper percentiles · shares float64[D], percent of the train samples in which each
    feature fires · n_samples, n_zero rows of zero norm · auto: eps was chosen label-free · sparse: even the smallest eps
    of the grid left the mean share below 3.7 %.
    """

    features: np.ndarray
    eps: float
    lower: float
    upper: float
    shares: np.ndarray
    n_samples: int
    n_zero: int
    auto: bool = False
    sparse: bool = False

    def __post_init__(self) -> None:
        for name in ("features", "shares"):
            own = np.array(getattr(self, name))
            own.setflags(write=False)
            object.__setattr__(self, name, own)

    @property
    def n_dead(self) -> int:
        """Chosen features that never fire: D holds them where the lower percentile of the shares is 0."""
        return int((self.shares[self.features] == 0).sum())


class ActivationCounts:
    """How often each feature fires, for several eps at once, over chunks of rows: `update`, `merge`, then `select`.

    Memory O(len(eps) * D), whatever N. Counts are integers, so chunked equals whole, bit for bit.
    eps: one or several. Raises InputError: none, or one below 0.
    """

    def __init__(self, width: int, eps: Array) -> None:
        self.eps = np.unique([check_eps(e) for e in np.atleast_1d(as_numpy(eps))])
        if not len(self.eps):
            raise InputError("eps is empty; expected at least one number.")
        self.counts = np.zeros((len(self.eps), width), np.int64)
        self.n_samples = 0
        self.n_zero = 0

    def update(self, H: Array) -> "ActivationCounts":
        """Count H float[n, D]; it is not changed. Raises InputError: another width, NaN or infinity."""
        H = as_numpy(check_embeddings(H, allow_nan=True))  # the pass over the rows finds what is not finite
        if H.shape[1] != self.counts.shape[1]:
            raise InputError(f"H has {H.shape[1]} features; these counts are of {self.counts.shape[1]}.")
        counts, zero = count_firing(H, self.eps)
        self.counts += counts
        self.n_samples += len(H)
        self.n_zero += zero
        return self

    def merge(self, other: "ActivationCounts") -> "ActivationCounts":
        """Add the counts of other rows. Raises InputError when they were counted with other eps or another width."""
        if self.counts.shape != other.counts.shape or not np.array_equal(self.eps, other.eps):
            raise InputError("these counts are of another width or other eps and cannot be added.")
        self.counts += other.counts
        self.n_samples += other.n_samples
        self.n_zero += other.n_zero
        return self

    def shares(self, eps: float) -> np.ndarray:
        """A_j in percent, float64[D]."""
        return 100.0 * self._at(eps) / self.n_samples

    def mean_share(self, eps: float) -> float:
        """Mean activation share in percent, over the rows of non-zero norm."""
        rows = self.n_samples - self.n_zero
        return float(100.0 * self._at(eps).sum() / (rows * self.counts.shape[1])) if rows else 0.0

    def auto_eps(self) -> tuple[float, bool]:
        """The largest eps of the grid at which the mean share is still at least 3.7 %; True where even the smallest is below."""
        enough = [e for e in EPS_GRID if self.mean_share(e) >= AUTO_SHARE]
        return (float(max(enough)), False) if enough else (float(EPS_GRID[0]), True)

    def select(self, eps: float | Literal["auto"], lower: float, upper: float) -> FeatureSelection:
        """D = { j : P_lower(A) <= A_j <= P_upper(A) }, percentiles (linear) over all features, dead ones included.

        Raises InputError: nothing was counted yet, an eps that was not counted, percentiles out of order.
        """
        lower, upper = check_percentiles(lower, upper)
        if not self.n_samples:
            raise InputError("no sample was counted yet: call update first.")
        value, sparse = self.auto_eps() if eps == "auto" else (float(eps), False)
        shares = self.shares(value)
        low, high = np.percentile(shares, [lower, upper])
        features = np.flatnonzero((shares >= low) & (shares <= high))
        return FeatureSelection(features, value, lower, upper, shares, self.n_samples, self.n_zero, eps == "auto", sparse)

    def _at(self, eps: float) -> np.ndarray:
        place = np.flatnonzero(self.eps == eps)
        if len(place) == 0:
            raise InputError(f"eps {eps:g} was not counted; there is: {', '.join(f'{e:g}' for e in self.eps)}.")
        row: np.ndarray = self.counts[place[0]]
        return row


def highly_activating(H: Array, eps: float = EPS) -> Array:
    """L_i as a mask: which features fire in which sample, h_ij > mu_i + eps * sigma_i on L2-normalised rows.

    H float[N, D] -> bool[N, D] of the same kind. Raises InputError: wrong rank, empty, NaN or infinity, eps < 0.
    """
    H = check_embeddings(H)
    return expression.firing(expression.unit_rows(H), check_eps(eps))


def activation_share(H: Array, eps: float = EPS) -> Array:
    """A_j: percent of the samples in which feature j fires. H float[N, D] -> float64[D] of the same kind.

    Raises InputError: wrong rank, empty, NaN or infinity, eps < 0.
    """
    H, eps = check_embeddings(H, allow_nan=not is_torch(H)), check_eps(eps)
    if is_torch(H):
        return 100.0 * expression.firing(expression.unit_rows(H), eps).double().mean(0)
    return ActivationCounts(H.shape[1], [eps]).update(H).shares(eps)


def select_features(
    H_train: Array, eps: float | Literal["auto"] = EPS, lower: float = LOWER, upper: float = UPPER
) -> FeatureSelection:
    """The discriminative features of an encoder, from embeddings of its train set. No labels are used.

    H_train float[N, D] · eps: a number, or "auto" (ours): the largest of 0.25, 0.50 … 8.00 at which the mean activation
    share is still 3.7 %. At the paper's 4 an encoder smaller than its ResNets hardly fires at all: then take "auto" · lower,
    upper: percentiles of the shares.
    Raises InputError: wrong rank, empty, NaN or infinity, eps < 0, percentiles out of order.
    """
    H = check_embeddings(H_train, "H_train", allow_nan=True)
    lower, upper = check_percentiles(lower, upper)
    if isinstance(eps, str) and eps != "auto":
        raise InputError(f'eps is "{eps}"; expected a number of at least 0, or "auto".')
    grid = EPS_GRID if eps == "auto" else [check_eps(eps)]
    return ActivationCounts(H.shape[1], grid).update(H).select(eps, lower, upper)


def discriminative_features(H_train: Array, eps: float = EPS, lower: float = LOWER, upper: float = UPPER) -> Array:
    """Sorted indices int64[K] of the features whose activation share lies between two percentiles of all shares.

    H_train float[N, D], from the train set. Raises InputError: see `select_features`.
    """
    features = select_features(H_train, check_eps(eps), lower, upper).features
    if is_torch(H_train):
        import torch

        return torch.from_numpy(features.copy()).to(H_train.device)
    return features.copy()
