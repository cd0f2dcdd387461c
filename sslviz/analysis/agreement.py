"""Do two encoders fail on the same samples, and do they see the same neighbours?"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sslviz.arrays import Array, check_labels
from sslviz.errors import InputError


@dataclass(frozen=True)
class Agreement:
    """Which of n samples the probes of two encoders get right, as counts of the four cases, and what follows from them.

    difference: accuracy of the first minus that of the second · interval: its 95 %, percentile bootstrap over samples, each drawn
    with both answers · p_value: exact McNemar test · consistency: error consistency, Cohen's kappa of the two rights and wrongs,
    1 the same errors, 0 as independent (Geirhos et al., NeurIPS 2020, equation 1); None where chance alone already agrees in all.
    """

    n: int
    both_right: int
    only_first: int
    only_second: int
    both_wrong: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    consistency: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def agreement(first: Array, second: Array, n_bootstrap: int = 1000, seed: int = 0) -> Agreement:
    """Compare which samples two encoders get right.

    first, second: bool[N], the same samples in the same order. Raises InputError: empty, lengths that differ, values other than
    0 and 1.
    """
    from scipy.stats import binomtest

    a = check_labels(first, len(first), "first")
    b = check_labels(second, len(a), "second")
    if len(a) == 0:
        raise InputError("no samples to compare; expected at least one.")
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise InputError("first or second holds values other than 0 and 1; expected booleans.")
    n = len(a)
    both_right, only_first = int((a * b).sum()), int((a * (1 - b)).sum())
    only_second = int(((1 - a) * b).sum())
    both_wrong = n - both_right - only_first - only_second
    cells = np.array([only_first, only_second, both_right + both_wrong])
    drawn = np.random.default_rng(seed).multinomial(n, cells / n, size=n_bootstrap)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / n, [2.5, 97.5])
    right_a, right_b = a.mean(), b.mean()
    expected = right_a * right_b + (1 - right_a) * (1 - right_b)
    discordant = only_first + only_second
    return Agreement(
        n=n,
        both_right=both_right,
        only_first=only_first,
        only_second=only_second,
        both_wrong=both_wrong,
        difference=(only_first - only_second) / n,
        interval=(float(low), float(high)),
        p_value=float(binomtest(only_first, discordant).pvalue) if discordant else 1.0,
        consistency=None if expected == 1 else float(((both_right + both_wrong) / n - expected) / (1 - expected)),
    )


def shared_neighbours(first: Iterable[Iterable[Any]], second: Iterable[Iterable[Any]]) -> float:
    """Share of nearest neighbours that two encoders have in common, 0 to 1, mean over the samples.

    first, second: of each sample the ids of its neighbours, as `nearest_neighbours` finds them (an id more than once counts
    once, None not at all). Samples without neighbours are left out; NaN where there are no others.
    """
    shares = []
    for a, b in zip(first, second, strict=True):
        ours, theirs = ({i for i in ids if i is not None} for ids in (a, b))
        if most := max(len(ours), len(theirs)):
            shares.append(len(ours & theirs) / most)
    return float(np.mean(shares)) if shares else float("nan")
