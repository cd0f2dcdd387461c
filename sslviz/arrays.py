"""The border: every array that a user hands in is checked here once, and trusted below.

N samples, D features, K chosen features, C classes. NumPy arrays (any real dtype) and torch tensors are taken; what goes
in as one comes out as the same kind. Nothing here changes its input.
"""

from typing import Any, TypeAlias

import numpy as np

from sslviz.errors import InputError

Array: TypeAlias = Any  # numpy.ndarray or torch.Tensor; torch is not imported to say so


def is_torch(x: object) -> bool:
    """Whether x is a torch tensor, found out without importing torch."""
    return any(kind.__module__.partition(".")[0] == "torch" for kind in type(x).__mro__)


def as_numpy(x: Array) -> np.ndarray:
    """An array, or a tensor wherever it lies, as NumPy; bfloat16, which NumPy has not, as float32."""
    if not is_torch(x):
        return np.asarray(x)
    array: np.ndarray = (x.float() if str(x.dtype) == "torch.bfloat16" else x).detach().cpu().numpy()
    return array


def check_embeddings(H: Array, name: str = "H", *, allow_nan: bool = False) -> Array:
    """H float[N, D], N and D at least 1, every value finite (`allow_nan`: left to the caller).

    Half precision is widened to float32, integers to float64; torch tensors keep their device and graph.
    Raises InputError naming the shape, or row and column of the first value that is not finite.
    """
    if is_torch(H):
        if H.is_complex():
            raise InputError(f"{name} has dtype {H.dtype}; expected real numbers.")
        if not H.is_floating_point():
            H = H.double()
        H = H.float() if H.dtype.itemsize < 4 else H
    else:
        H = _as_real_array(H, name)
    if H.ndim != 2:
        raise InputError(f"{name} has shape {tuple(H.shape)}; expected two dimensions, samples x features.")
    if H.shape[0] == 0 or H.shape[1] == 0:
        raise InputError(f"{name} is empty, shape {tuple(H.shape)}; expected at least one sample and one feature.")
    if not allow_nan:
        check_finite(as_numpy(H), name)
    return H


def check_finite(H: np.ndarray, name: str = "H") -> None:
    """Raise InputError naming row and column of the first NaN or infinity of H[N, D]."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(H.sum(dtype=np.float64)):
            return
    rows, columns = np.nonzero(~np.isfinite(H))
    if len(rows) == 0:
        return
    row, column = int(rows[0]), int(columns[0])
    what = "NaN" if np.isnan(H[row, column]) else "infinity"
    raise InputError(f"{name} has {what} in row {row} of {len(H)}, column {column}; every value must be finite.")


def check_features(features: Array, width: int) -> np.ndarray:
    """Feature indices int64[K], each in 0..width-1, none twice; K may be 0."""
    indices = as_numpy(features)
    if indices.ndim != 1:
        raise InputError(f"features has shape {indices.shape}; expected one dimension of feature indices.")
    if indices.size == 0:
        return np.zeros(0, dtype=np.int64)
    if indices.dtype.kind not in "iu":
        raise InputError(f"features has dtype {indices.dtype}; expected integer feature indices.")
    outside = indices[(indices < 0) | (indices >= width)]
    if outside.size:
        raise InputError(f"feature index {int(outside[0])} is outside 0..{width - 1}.")
    unique, counts = np.unique(indices, return_counts=True)
    if len(unique) != len(indices):
        raise InputError(f"feature index {int(unique[counts > 1][0])} is given twice.")
    return indices.astype(np.int64)


def check_labels(labels: Array, n: int, name: str = "labels") -> np.ndarray:
    """Class labels int64[N], one for each of n samples; -1 stands for "no known class"."""
    y = as_numpy(labels)
    if y.shape != (n,):
        raise InputError(f"{name} has shape {y.shape}; expected ({n},), one label per sample.")
    if y.dtype.kind not in "iub":
        raise InputError(f"{name} has dtype {y.dtype}; expected integers or booleans.")
    return y.astype(np.int64)


def check_train_and_test(
    H_train: Array, y_train: Array, H_test: Array, y_test: Array
) -> tuple[Array, np.ndarray, Array, np.ndarray]:
    """Embeddings float[N, D] and float[M, D] of one width, each with its class labels."""
    train, test = check_embeddings(H_train, "H_train"), check_embeddings(H_test, "H_test")
    if train.shape[1] != test.shape[1]:
        raise InputError(f"H_train has {train.shape[1]} features, H_test {test.shape[1]}; they must be equal.")
    return train, check_labels(y_train, len(train), "y_train"), test, check_labels(y_test, len(test), "y_test")


def check_l2(l2: float) -> float:
    """Strength of an L2 penalty: finite, at least 0."""
    if not (np.isfinite(l2) and l2 >= 0):
        raise InputError(f"l2 is {l2}; expected a finite number of at least 0.")
    return float(l2)


def check_eps(eps: float) -> float:
    """eps, the number of standard deviations above its sample's mean at which a feature fires: finite, at least 0."""
    if not isinstance(eps, int | float | np.floating | np.integer) or isinstance(eps, bool):
        raise InputError(f"eps is {eps!r}; expected a number of at least 0.")
    if not np.isfinite(eps) or eps < 0:
        raise InputError(f"eps is {eps}; expected a finite number of at least 0.")
    return float(eps)


def check_percentiles(lower: float, upper: float) -> tuple[float, float]:
    """Percentiles with 0 <= lower < upper <= 100."""
    try:
        fine = 0 <= lower < upper <= 100
    except TypeError:
        fine = False
    if not fine:
        raise InputError(f"percentiles {lower} and {upper} are out of order; expected 0 <= lower < upper <= 100.")
    return float(lower), float(upper)


def check_maps(heatmap: Array, mask: Array) -> tuple[np.ndarray, np.ndarray]:
    """Heatmaps float32[N, H, W] and masks float32[N, H, W] in 0..1; bool masks are 0 and 1, and so are uint8 ones without a value
    above 1; others of uint8 are divided by 255."""
    heat, core = as_numpy(heatmap), as_numpy(mask)
    if heat.ndim != 3 or heat.shape != core.shape:
        raise InputError(f"heatmap has shape {heat.shape}, mask {core.shape}; expected both [N, H, W].")
    if heat.dtype.kind != "f":
        raise InputError(f"heatmap has dtype {heat.dtype}; expected floats in 0..1.")
    if not len(heat):
        raise InputError("no heatmap: expected at least one.")
    if core.dtype == np.uint8:
        core = core.astype(bool) if core.max(initial=0) <= 1 else core / np.float32(255)
    elif core.dtype.kind not in "fb":
        raise InputError(f"mask has dtype {core.dtype}; expected bool, uint8 (0..255) or floats in 0..1.")
    heat, core = heat.astype(np.float32, copy=False), core.astype(np.float32, copy=False)
    for name, values in (("heatmap", heat), ("mask", core)):
        if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1 + 1e-6):
            raise InputError(f"{name} has values outside 0..1, or that are not finite.")
    return heat, core


def _as_real_array(H: Array, name: str) -> np.ndarray:
    try:
        array = np.asarray(H)
    except ValueError:
        raise InputError(f"{name} has rows of unequal length; expected samples x features.") from None
    if array.dtype.kind == "f":
        if array.dtype.itemsize == 8 or array.dtype.itemsize == 4:
            return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    raise InputError(f"{name} has dtype {array.dtype}; expected real numbers.")


def positions(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Where each of the row numbers int[n] stands in the ascending row numbers int[m]; -1 where it is not there."""
    if len(among) == 0:
        return np.full(len(rows), -1)
    place = np.searchsorted(among, rows).clip(max=len(among) - 1)
    return np.where(among[place] == rows, place, -1)
