"""The differentiable expression of the equations, for numpy or torch: what the training loss uses.

Its twin is the compiled pass in `rows.py`; tests/contracts holds both to tests/reference.py. Suffixes give shapes.
"""

from sslviz.analysis.rows import FLAT
from sslviz.arrays import Array, is_torch


def unit_rows(h_ND: Array) -> Array:
    """Rows scaled to L2 norm 1; zero rows stay zero. Divided by their largest entry first, so that no square overflows."""
    size_ND = abs(h_ND)
    peak_N1 = size_ND.amax(1, keepdim=True).detach() if is_torch(h_ND) else size_ND.max(1, keepdims=True)
    peak_N1 = peak_N1 + (peak_N1 == 0)
    h_ND = h_ND / peak_N1
    square_N1 = (h_ND * h_ND).sum(1)[:, None]
    return h_ND / (square_N1 + (square_N1 == 0)) ** 0.5


def moments(h_ND: Array) -> tuple[Array, Array]:
    """mu_i and sigma_i over the features of each sample, [N, 1]; ddof 0 (ours; torch's .std would be 1)."""
    mean_N1 = h_ND.mean(1)[:, None]
    std_N1 = ((h_ND - mean_N1) ** 2).mean(1)[:, None] ** 0.5
    return mean_N1, std_N1


def firing(h_ND: Array, eps: float) -> Array:
    """L_i as a mask bool[N, D]: h_ij > mu_i + eps * sigma_i, on L2-normalised rows; nothing fires in a flat row (ours)."""
    mean_N1, std_N1 = moments(h_ND)
    return (h_ND - mean_N1 > eps * std_N1) & (std_N1 > FLAT * abs(mean_N1))


def q_score(h_ND: Array, features_K: Array, eps: float) -> Array:
    """Q_i = mean over L_i ∩ D of h_ij - mu_i, on L2-normalised rows; 0 where that set is empty. Not divided by sigma."""
    mean_N1, _ = moments(h_ND)
    fires_NK = firing(h_ND, eps)[:, features_K]
    excess_NK = h_ND[:, features_K] - mean_N1
    n_N = fires_NK.sum(1)
    return (excess_NK * fires_NK).sum(1) / (n_N + (n_N == 0))
