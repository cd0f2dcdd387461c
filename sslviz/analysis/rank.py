"""Label-free quality of a whole representation: RankMe and alpha-ReQ."""

import numpy as np

from sslviz.arrays import Array, as_numpy, check_embeddings
from sslviz.errors import InputError

MAX_ROWS = 25_600
_BLOCK = 2048


def rank_me(H: Array) -> float:
    """RankMe: exp of the entropy of the normalised singular values (Garrido et al., ICML 2023, eq. 2).

    H float[N, D], raw train rows; a seeded sample of 25,600 is used where there are more. Between 1 and min(N, D).
    Raises InputError: wrong rank, empty, NaN or infinity.
    """
    s = np.sqrt(_eigenvalues(_sample(check_embeddings(H)), centred=False))
    if s.sum() == 0:
        return 1.0
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_req(H: Array) -> float:
    """alpha-ReQ: decay of the covariance's eigenvalues, minus the slope of log eigenvalue on log rank (Agrawal et al.,
    NeurIPS 2022); ranks 11 to min(N, D) / 2 (ours).

    H float[N, D]; a seeded sample of 25,600 rows is used where there are more. Raises InputError: wrong rank, empty, NaN or
    infinity, min(N, D) below 24 (too few ranks), or fewer directions than ranks.
    """
    H = _sample(check_embeddings(H))
    last = min(H.shape) // 2
    if last < 12:
        raise InputError(f"alpha-ReQ needs at least 24 samples and features; H has shape {tuple(H.shape)}.")
    found = _eigenvalues(H, centred=True)
    values, noise = found[10:last], max(H.shape) * np.finfo(np.float64).eps * found[0]
    if (values <= noise).any():  # eigenvalues of a covariance that has fewer are what rounding leaves
        raise InputError("alpha-ReQ is undefined: the covariance has fewer positive eigenvalues than ranks looked at.")
    return float(-np.polyfit(np.log(np.arange(11, last + 1)), np.log(values), 1)[0])


def _sample(H: Array) -> np.ndarray:
    rows = as_numpy(H)
    if len(rows) > MAX_ROWS:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False))]
    return rows


def _eigenvalues(H: np.ndarray, *, centred: bool) -> np.ndarray:
    """Eigenvalues of H'H (or of the covariance) up to a common factor, largest first, min(N, D) of them, in float64."""
    largest = max(float(H.max()), -float(H.min()))
    H = H / largest if largest > 0 else H  # so that no product leaves the range of its type
    mean = H.mean(0, dtype=np.float64) if centred else 0.0
    scale = max(1, len(H) - 1) if centred else 1
    if len(H) < H.shape[1]:
        wide = H.astype(np.float64) - mean
        gram = wide @ wide.T / scale
    else:
        gram = np.zeros((H.shape[1], H.shape[1]))
        for start in range(0, len(H), _BLOCK):
            block = H[start : start + _BLOCK] - mean
            gram += block.T.astype(np.float64) @ block / scale
    values: np.ndarray = np.clip(np.linalg.eigvalsh(gram)[::-1], 0, None)
    return values
