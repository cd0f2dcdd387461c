"""How many features are enough: linear probes on subsets of the features, of many sizes (docs/method.md 3)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from sslviz.analysis.features import select_features
from sslviz.analysis.probe import choose_l2
from sslviz.analysis.resampling import resampled_means
from sslviz.analysis.softmax import Design, Fit, fit_lbfgs
from sslviz.arrays import Array, check_l2, check_train_and_test
from sslviz.errors import InputError

REDUCTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
KINDS = ("discriminative", "random", "lower tail", "upper tail", "pca")
RANDOM_SEEDS = 4
FROM_BOTTOM = {"discriminative": 50 / 55, "lower tail": 0.0, "upper tail": 1.0}
"""Of the features that go, the share that is taken from the lowest activation shares; the rest are the highest."""


@dataclass(frozen=True, eq=False)
class Subset:
    """A probe on a part of the features: which (int64[K] sorted; None for principal components), and which of the judged test
    samples it gets right, bool[M]."""

    kind: str
    reduction: float
    seed: int | None
    n_features: int
    features: np.ndarray | None
    correct: np.ndarray
    converged: bool
    iterations: int


def subset(shares: np.ndarray, kind: str, reduction: float, seed: int = 0) -> np.ndarray:
    """The features int64[K] sorted that are left of D after a reduction: K = round((1 - reduction) D).

    discriminative: by rank of the activation shares float[D] (ties by index) 50 parts of what goes are taken from the bottom and
    5 from the top, the straight line through the default percentiles 50 and 95 (ours) · random: seeded, smaller ones are parts
    of larger ones · lower tail, upper tail: the lowest or highest shares.
    """
    d = len(shares)
    kept = round((1 - reduction) * d)
    order = np.argsort(shares, kind="stable")
    if kind == "random":
        return np.sort(np.random.default_rng(seed).permutation(d)[:kept])
    low = round((d - kept) * FROM_BOTTOM[kind])
    return np.sort(order[low : low + kept])


def curve(
    design: Design,
    shares: np.ndarray,
    test: Callable[[], Iterable[Array]],
    y_test: np.ndarray,
    l2: float,
    reductions: Sequence[float] = REDUCTIONS,
    kinds: Sequence[str] = KINDS,
    done: Sequence[Subset] = (),
) -> Iterator[Subset]:
    """The probes of a compression curve one after the other, full width first; see `compression_curve`.

    design: all train features · shares float[D] · test() gives blocks of raw test rows anew each time · done: probes that were
    fitted before are given again as they are. All have one L2, share standardisation and correlations, and begin where the next
    larger one ended.
    """
    judged = np.isin(y_test, design.classes)
    known = {(p.kind, p.reduction, p.seed): p for p in done}

    def probe(
        part: Design, start: Fit | None, where: tuple[str, float, int | None], kept: np.ndarray | None
    ) -> tuple[Subset, Fit]:
        fit = fit_lbfgs(part, l2, start=start)
        said = design.classes[part.probabilities(fit, test()).argmax(1)]
        n = part.width if kept is None else len(kept)
        return Subset(*where, n, kept, (said == y_test)[judged], bool(fit.converged), fit.iterations), fit

    first, full = probe(design, None, ("full", 0.0, None), np.arange(design.n_features))
    yield first
    for kind in kinds:
        for draw in range(RANDOM_SEEDS) if kind == "random" else [None]:
            larger, fit = design, full
            for reduction in sorted(reductions):
                where = (kind, reduction, draw)
                if where in known:
                    yield known[where]
                elif kind == "pca":
                    part = larger.principal(round((1 - reduction) * design.n_features))
                    yield probe(part, part.begin(design, full), where, None)[0]
                    larger = part
                else:
                    kept = subset(shares, kind, reduction, draw or 0)
                    part = design.subset(kept)
                    found, fit = probe(part, part.begin(larger, fit), where, kept)
                    larger = part
                    yield found


def n_probes(reductions: Sequence[float] = REDUCTIONS, kinds: Sequence[str] = KINDS) -> int:
    """How many probes a curve takes."""
    return 1 + len(reductions) * sum(RANDOM_SEEDS if kind == "random" else 1 for kind in kinds)


def check(kinds: Sequence[str], reductions: Sequence[float]) -> None:
    """Raises InputError for an unknown kind and for a reduction outside 0 to 1."""
    if unknown := [k for k in kinds if k not in KINDS]:
        raise InputError(f'unknown kind of subset "{unknown[0]}"; there are: {", ".join(KINDS)}.')
    if wrong := [r for r in reductions if not 0 < r < 1]:
        raise InputError(f"reduction {wrong[0]:g} is out of range; expected shares above 0 and below 1.")


def compression_curve(
    H_train: Array,
    y_train: Array,
    H_test: Array,
    y_test: Array,
    eps: float | Literal["auto"] = 4.0,
    l2: float | None = None,
    reductions: Sequence[float] = REDUCTIONS,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy of linear probes on fewer and fewer features (Kalibhat et al., AAAI 2024, Fig. 4).

    H_train float[N, D], y_train int[N] · H_test float[M, D], y_test int[M] · eps: of the activation shares the subsets are ranked
    by · l2: None chooses it on a held-out fifth of train at full width · reductions: shares of the features that go · kinds:
    of "discriminative", "random" (4 seeds, nested), "lower tail", "upper tail", "pca" (fitted on train).
    Returns one row a probe: kind, reduction, n_features, top1 (fraction), seed (of random ones), low, high (95 %, percentile
    bootstrap over test samples), converged. The labels judge the subsets; none but `top1` depends on them.
    Raises InputError: see `linear_probe`; an unknown kind, a reduction outside 0 to 1, no test sample of a known class.
    """
    check(kinds, reductions)
    train, y, test, truth = check_train_and_test(H_train, y_train, H_test, y_test)
    given = None if l2 is None else check_l2(l2)
    design = Design(train, y)
    if not np.isin(truth, design.classes).any():
        raise InputError("no test sample has a class that occurs in train: nothing to judge a probe on.")
    shares = select_features(train, eps).shares
    strength = choose_l2(design, seed) if given is None else given
    return table(list(curve(design, shares, lambda: [test], truth, strength, reductions, kinds)))


def table(probes: Sequence[Subset]) -> pd.DataFrame:
    """The rows of `compression_curve`. Bootstrap intervals of a share are quantiles of its binomial: no draws are needed."""
    from scipy.stats import binom

    top1 = np.array([p.correct.mean() for p in probes])
    n = len(probes[0].correct)
    low, high = (binom.ppf(q, n, top1) / n for q in (0.025, 0.975))
    return pd.DataFrame(
        {
            "kind": [p.kind for p in probes],
            "reduction": [p.reduction for p in probes],
            "n_features": [p.n_features for p in probes],
            "top1": top1,
            "seed": pd.array([p.seed for p in probes], dtype="Int64"),
            "low": low,
            "high": high,
            "converged": [p.converged for p in probes],
        }
    )


def by_size(found: pd.DataFrame) -> pd.DataFrame:
    """top1 of a curve's table by reduction and n_features (of principal components there may be fewer), a column a kind, random
    subsets by their mean; the full width is left out."""
    subsets = found[found["kind"] != "full"]
    n_features = subsets.groupby("reduction")["n_features"].transform("max")
    wide = subsets.groupby(["reduction", n_features, "kind"])["top1"].mean().unstack("kind")
    return wide[[kind for kind in KINDS if kind in wide]]


@dataclass(frozen=True)
class Drop:
    """What a kind of subset loses against the full width at one reduction, in shares of the test samples.

    interval: 95 %, percentile bootstrap over samples, each drawn with all its answers; random subsets count by their mean, over
    seeds that are drawn anew in each resample too · by_seed: the loss of each random subset, one value for other kinds ·
    above_random: top-1 minus that of random subsets of the same size, and its interval; None where there are none.
    """

    kind: str
    reduction: float
    drop: float
    interval: tuple[float, float]
    by_seed: tuple[float, ...]
    above_random: tuple[float, float, float] | None = None


def drops(probes: Sequence[Subset], n_bootstrap: int = 1000, seed: int = 0) -> list[Drop]:
    """The loss of every kind at every reduction. `probes`: of one curve, the full width among them."""
    from scipy.stats import norm, t

    rng = np.random.default_rng(seed)
    right = np.stack([p.correct for p in probes])
    top1, drawn = right.mean(1), resampled_means(right.T.astype(np.float64), rng, n_bootstrap)
    full = next(k for k, p in enumerate(probes) if p.kind == "full")
    groups: dict[tuple[str, float], list[int]] = {}
    for k, p in enumerate(probes):
        if p.kind != "full":
            groups.setdefault((p.kind, p.reduction), []).append(k)

    def of_seeds(members: list[int]) -> np.ndarray:
        """The mean of a group in each resample, as far off as the mean of as many of its seeds, drawn too, is; widened as
        Student's t asks of so few."""
        n = len(members)
        all_seeds: np.ndarray = drawn[:, members].mean(1)
        if n == 1:
            return all_seeds
        seeds = np.asarray(members)[rng.integers(n, size=(n_bootstrap, n))]
        wider = np.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / norm.ppf(0.975)
        mean: np.ndarray = all_seeds + wider * (top1[seeds].mean(1) - top1[members].mean())
        return mean

    resampled = {group: of_seeds(members) for group, members in groups.items()}
    found = []
    for (kind, reduction), members in groups.items():
        mean, draws = float(top1[members].mean()), resampled[kind, reduction]
        above = None
        if kind != "random" and ("random", reduction) in groups:
            difference = draws - resampled["random", reduction]
            above = (mean - float(top1[groups["random", reduction]].mean()), *_interval(difference))
        by_seed = tuple(float(top1[full] - top1[k]) for k in members)
        found.append(Drop(kind, reduction, float(top1[full]) - mean, _interval(drawn[:, full] - draws), by_seed, above))
    return found


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def enough(found: Sequence[Drop], kind: str, points: float) -> float | None:
    """The smallest reduction of those tried at which a kind loses more than so many points (percent); None where none does."""
    return min((d.reduction for d in found if d.kind == kind and round(100 * d.drop, 9) > points), default=None)
