"""Bootstrap means of many columns at once."""

import numpy as np

_AT_ONCE = 20_000_000
"""Numbers of resamples in memory."""


def resampled_means(values: np.ndarray, rng: np.random.Generator, draws: int = 1000) -> np.ndarray:
    """Means float64[draws, m] of bootstrap samples of the rows of values[n, m], a few samples at a time."""
    n, means = len(values), []
    for start in range(0, draws, step := max(1, _AT_ONCE // n)):
        weights = rng.multinomial(n, np.full(n, 1 / n), size=min(step, draws - start))
        means.append(weights.astype(np.float64) @ values / n)
    return np.concatenate(means)
