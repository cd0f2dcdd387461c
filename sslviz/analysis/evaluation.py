"""Does a score predict which samples the probe gets right? Ranking metrics beside a base rate, with intervals.

Positive class = classified correctly (docs/method.md 2). Ties are exact: AUROC and average precision as in scikit-learn,
AURC and AUGRC by their expectation over random orders of tied samples.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import numba
import numpy as np

from sslviz.arrays import Array, as_numpy, check_finite, check_labels
from sslviz.errors import InputError

_njit = cast(Callable[..., Any], numba.njit(nogil=True, cache=True))
_METRICS = ("auroc", "auprc", "auprc_error", "aurc", "augrc", "base_rate", "lift")


@dataclass(frozen=True)
class ScoreReport:
    """How well a score ranks correct above misclassified samples.

    auroc (None where only one outcome occurs, `reason` says so) · auprc: average precision of "correct" · base_rate: share
    correct, the auprc of a random score · lift = auprc / base_rate · auprc_error: average precision of "misclassified" under
    the reversed score · aurc: mean over coverages of the selective error · augrc: the same of error times coverage ·
    intervals: 95 %, percentile bootstrap over images; n_left_out resamples had one outcome only and are not in them.
    """

    n: int
    auroc: float | None
    auprc: float | None
    base_rate: float
    lift: float | None
    auprc_error: float | None
    aurc: float
    augrc: float
    intervals: dict[str, tuple[float, float] | None]
    n_bootstrap: int
    n_left_out: int
    seed: int
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def verdict(self) -> str:
        """What the AUROC's interval allows to say, in words."""
        interval = self.intervals["auroc"]
        if self.auroc is None or interval is None:
            return "cannot be judged here"
        low, high = interval
        if high < 0.5:
            return "upside down here"
        if low <= 0.5:
            return "does not separate here"
        return "predicts" if low >= 0.6 else "weakly predicts"


def evaluate_score(score: Array, correct: Array, n_bootstrap: int = 1000, seed: int = 0) -> ScoreReport:
    """Judge a score, higher = better, as a predictor of correct classification.

    score float[N] · correct bool[N] · n_bootstrap resamples of the images for the intervals, 0 for none.
    Raises InputError: shapes that differ, empty input, NaN or infinity, n_bootstrap < 0, `correct` other than 0 and 1.
    """
    try:
        s = as_numpy(score).astype(np.float64)
    except (TypeError, ValueError):
        raise InputError("score holds values that are no numbers.") from None
    if n_bootstrap < 0:
        raise InputError(f"n_bootstrap is {n_bootstrap}; expected at least 0.")
    if s.ndim != 1 or len(s) == 0:
        raise InputError(f"score has shape {s.shape}; expected one value per sample, at least one.")
    check_finite(s[:, None], "score")
    y = check_labels(correct, len(s), "correct")
    if not np.isin(y, (0, 1)).all():
        raise InputError("correct holds values other than 0 and 1; expected booleans.")

    ranked = Ranked(s, y.astype(bool))
    values = _metrics(ranked.hits, ranked.ends, np.ones(len(s), np.int64))
    point = dict(zip(_METRICS, values, strict=True))
    one_outcome = point["base_rate"] in (0.0, 1.0)

    rng = np.random.default_rng(seed)
    draws = []
    left_out = 0
    for _ in range(n_bootstrap):
        weights = np.bincount(rng.integers(0, len(s), len(s)), minlength=len(s))
        drawn = _metrics(ranked.hits, ranked.ends, weights)
        if np.isnan(drawn[0]):
            left_out += 1
        else:
            draws.append(drawn)
    intervals: dict[str, tuple[float, float] | None] = dict.fromkeys(_METRICS)
    if len(draws) >= 20:
        low, high = np.percentile(np.array(draws), [2.5, 97.5], axis=0)
        intervals = {m: (float(a), float(b)) for m, a, b in zip(_METRICS, low, high, strict=True)}
    reason = ""
    if one_outcome:
        outcome = "correct" if point["base_rate"] == 1 else "misclassified"
        reason = f"all {len(s)} samples are {outcome}: nothing to separate"
    known = {m: (None if np.isnan(v) else float(v)) for m, v in point.items()}
    return ScoreReport(
        n=len(s),
        auroc=known["auroc"],
        auprc=known["auprc"],
        base_rate=float(point["base_rate"]),
        lift=known["lift"],
        auprc_error=known["auprc_error"],
        aurc=float(point["aurc"]),
        augrc=float(point["augrc"]),
        intervals=intervals,
        n_bootstrap=n_bootstrap,
        n_left_out=left_out,
        seed=seed,
        reason=reason,
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 15) -> float | None:
    """Expected calibration error of confidences float[N] in 0..1 (Guo et al., ICML 2017, equation 3); None without a sample.

    How far the mean confidence of an even bin (its upper edge belongs to it) is from the share correct[N] in it, weighted by its
    samples. torchmetrics, whose import takes longer than a probe, differs at the edges: it gives lower ones to the bin.
    """
    if len(confidence) == 0:
        return None
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=n_bins)
    return float(np.abs(gaps).sum() / len(confidence))


class Ranked:
    """Samples in order of a score float[N], to be counted differently often: bool[N] correct."""

    def __init__(self, score: np.ndarray, correct: np.ndarray) -> None:
        self.order = np.argsort(-score, kind="stable")
        self.ends = np.flatnonzero(np.append(np.diff(score[self.order]) != 0, True)) + 1
        self.hits = correct[self.order]

    def weighted(self, weights: np.ndarray) -> tuple[float, float]:
        """(AUROC, AUPRC), each sample counted weights int[N] times; NaN where only one outcome is left."""
        auroc, auprc, *_ = _metrics(self.hits, self.ends, weights[self.order])
        return float(auroc), float(auprc)


@_njit
def _metrics(hits: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> tuple[float, ...]:
    """Samples in order of falling score, `ends` of their groups of equal score, and how often each was drawn."""
    n = weights.sum()
    n_hits = (weights * hits).sum()
    n_errors = n - n_hits
    pairs = precision_hits = precision_errors = aurc = augrc = 0.0
    seen = seen_errors = 0
    start = 0
    for end in ends:
        drawn = drawn_errors = 0
        for i in range(start, end):
            drawn += weights[i]
            drawn_errors += weights[i] * (not hits[i])
        start = end
        if drawn == 0:
            continue
        drawn_hits = drawn - drawn_errors
        pairs += drawn_hits * (n_errors - seen_errors - drawn_errors + 0.5 * drawn_errors)
        precision_hits += drawn_hits * (seen - seen_errors + drawn_hits) / (seen + drawn)
        below = n - seen
        precision_errors += drawn_errors * (n_errors - seen_errors) / below
        for k in range(1, drawn + 1):  # expected errors among the first seen + k, ties in random order
            errors = seen_errors + k * drawn_errors / drawn
            aurc += errors / (seen + k)
            augrc += errors
        seen += drawn
        seen_errors += drawn_errors
    base_rate = n_hits / n
    auroc = pairs / (n_hits * n_errors) if n_hits > 0 and n_errors > 0 else np.nan
    auprc = precision_hits / n_hits if n_hits > 0 else np.nan
    auprc_error = precision_errors / n_errors if n_errors > 0 else np.nan
    lift = auprc / base_rate if base_rate > 0 else np.nan
    return auroc, auprc, auprc_error, aurc / n, augrc / n / n, base_rate, lift
