"""The Q-Score (Kalibhat et al., AAAI 2024, section 4; docs/method.md 2)."""

from sslviz.analysis import expression
from sslviz.analysis.features import EPS, FeatureSelection
from sslviz.analysis.rows import score_rows
from sslviz.arrays import Array, check_embeddings, check_eps, check_features, is_torch
from sslviz.errors import InputError


def q_score(H: Array, features: Array | FeatureSelection, eps: float | None = None) -> Array:
    """Q-Score of every sample: mean of h_ij - mu_i over its firing discriminative features, on L2-normalised rows.

    H float[N, D], embeddings before any projector, any row norm · features int[K] from the train set (eps then 4.0 unless
    given), or a FeatureSelection, which brings its own eps · returns float[N] of the same kind (NumPy: float64, torch: H's
    dtype, at least float32), 0 where nothing fires. Torch tensors keep their gradient: it flows through h_ij - mu_i, not
    through which features fire.
    Raises InputError: wrong rank, empty, NaN or infinity, index outside 0..D-1, eps < 0, an eps other than the selection's.
    """
    H = check_embeddings(H, allow_nan=not is_torch(H))  # the pass over the rows finds what is not finite
    if isinstance(features, FeatureSelection):
        if eps is not None and eps != features.eps:
            raise InputError(f"eps is {eps}, but these features were selected at eps {features.eps:g}; leave eps out.")
        if len(features.shares) != H.shape[1]:
            raise InputError(f"H has {H.shape[1]} features; these were selected among {len(features.shares)}.")
        indices, eps = features.features, features.eps
    else:
        indices, eps = check_features(features, H.shape[1]), check_eps(EPS if eps is None else eps)
    if is_torch(H):
        return expression.q_score(expression.unit_rows(H), indices.copy(), eps)  # torch warns of arrays that are read-only
    return score_rows(H, indices, eps).q
