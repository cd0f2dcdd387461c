"""The linear probe: softmax regression on frozen, standardised features."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sslviz.analysis.rivals import nearest_neighbours
from sslviz.analysis.softmax import Design, Fit, fit_lbfgs, fit_sgd
from sslviz.arrays import Array, check_embeddings, check_l2, check_labels, check_train_and_test
from sslviz.errors import InputError

L2_PATH = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A fitted probe and what it says of the test samples.

    top1: fraction of the judged samples that are right, None when none can be judged · n_judged: test samples whose class
    occurs in train; the other n_unknown are left out of top1 · predictions int64[N] class labels · probabilities float32[N, C]
    over `classes` int64[C] · weights float64[C, D], bias float64[C] on raw features · l2: weight of half the squared weights, on
    standardised features, beside the mean loss · converged, iterations: L-BFGS'; of SGD None and its epochs · n_constant columns
    left out.
    """

    top1: float | None
    n_judged: int
    n_unknown: int
    predictions: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    l2: float
    converged: bool | None
    iterations: int
    n_constant: int


def linear_probe(
    H_train: Array,
    y_train: Array,
    H_test: Array,
    y_test: Array,
    l2: float | None = None,
    max_iterations: int = 1000,
    seed: int = 0,
    protocol: Literal["lbfgs", "sgd100"] = "lbfgs",
) -> ProbeResult:
    """Fit a linear classifier on frozen features and judge it on others.

    H_train float[N, D], y_train int[N] (-1: no known class, left out) · H_test float[M, D], y_test int[M] · l2: None chooses it
    on a held-out fifth of train. Minimises mean cross-entropy + l2/2 |W|^2; the intercept is free. Columns that are constant
    up to rounding are left out. protocol "sgd100": 100 epochs of SGD as in the paper, without L2 or a test of convergence.
    Raises InputError: wrong rank, empty, NaN or infinity, shapes that differ, fewer than two classes in train, l2 < 0, or l2
    with "sgd100".
    """
    train, y, test, truth = check_train_and_test(H_train, y_train, H_test, y_test)
    given = None if l2 is None else check_l2(l2)
    if protocol not in ("lbfgs", "sgd100"):
        raise InputError(f'unknown protocol "{protocol}"; there are: lbfgs, sgd100.')
    design = Design(train, y)
    if protocol == "sgd100":
        if given is not None:
            raise InputError("sgd100 has no L2: leave l2 out.")
        strength, fit = 0.0, fit_sgd(design, seed=seed)
    else:
        strength = choose_l2(design, seed, max_iterations) if given is None else given
        fit = fit_lbfgs(design, strength, max_iterations)
    probabilities = design.probabilities(fit, [test])
    predictions = design.classes[probabilities.argmax(1)]
    judged = np.isin(truth, design.classes)
    weights, bias = design.on_raw_features(fit)
    return ProbeResult(
        top1=float((predictions == truth)[judged].mean()) if judged.any() else None,
        n_judged=int(judged.sum()),
        n_unknown=int((~judged).sum()),
        predictions=predictions,
        probabilities=probabilities,
        classes=design.classes,
        weights=weights,
        bias=bias,
        l2=strength,
        converged=fit.converged,
        iterations=fit.iterations,
        n_constant=design.n_features - len(design.columns),
    )


def out_of_fold(H: Array, y: Array, l2: float | None, folds: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray, int]:
    """Predictions int64[N] and probabilities float32[N, C] for train samples by probes that did not see them, and how many of
    these stopped without converging.

    Classes C are the sorted classes of y; samples of unknown class (-1) are predicted too. l2: None chooses it in each fold.
    Folds are seeded and, where a class has enough members, balanced. Raises InputError: see `linear_probe`.
    """
    H = check_embeddings(H)
    y = check_labels(y, len(H), "y")
    classes = np.unique(y[y >= 0])
    if len(classes) < 2:
        raise InputError(f"a probe needs two classes; these samples have {len(classes)}.")
    fold = _folds(y, folds, seed)
    predictions = np.empty(len(y), np.int64)
    probabilities, slow = np.zeros((len(y), len(classes)), np.float32), 0
    for k in range(folds):
        out = np.flatnonzero(fold == k)
        if len(out) == 0:
            continue
        kept = np.flatnonzero(fold != k)
        known = np.unique(y[kept][y[kept] >= 0])
        if len(known) < 2:  # a fold that holds all of a rare class leaves nothing to tell apart
            predictions[out] = known[0]
            probabilities[out, np.searchsorted(classes, known[0])] = 1
            continue
        result = linear_probe(H[kept], y[kept], H[out], y[out], l2, seed=seed)
        slow += not result.converged
        predictions[out] = result.predictions
        probabilities[out[:, None], np.searchsorted(classes, result.classes)] = result.probabilities
    return predictions, probabilities, slow


def knn_probe(H_train: Array, y_train: Array, H_test: Array, k: int = 20, temperature: float = 0.07) -> np.ndarray:
    """Class labels int64[M] by a vote of the k nearest train samples, each weighted by exp(cosine / temperature).

    H_train float[N, D], y_train int[N] (-1: no known class, left out) · H_test float[M, D] (Wu et al., CVPR 2018, section 3.4).
    Raises InputError: wrong rank, empty, NaN or infinity, shapes that differ, no known class, k < 1.
    """
    train = check_embeddings(H_train, "H_train")
    y = check_labels(y_train, len(train), "y_train")
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1.")
    if not (y >= 0).any():
        raise InputError("no train sample has a known class.")
    known = np.flatnonzero(y >= 0)
    classes, targets = np.unique(y[known], return_inverse=True)
    near = nearest_neighbours(H_test, train[known], k=min(k, len(known)))
    votes = np.zeros((len(near.rows), len(classes)))
    weight = np.exp((near.similarities - near.similarities[:, :1]) / temperature)
    np.add.at(votes, (np.arange(len(votes))[:, None], targets[near.rows]), weight)
    said: np.ndarray = classes[votes.argmax(1)]
    return said


def probabilities(H: np.ndarray, weights: Any) -> np.ndarray:
    """What a stored probe (weights.npz) says of embeddings float[N, D]: float[N, C]."""
    logits = H @ weights["weights"].T + weights["bias"]
    logits = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = logits / logits.sum(1, keepdims=True)
    return shares


def choose_l2(design: Design, seed: int = 0, max_iterations: int = 1000) -> float:
    """The strength on a falling path after which the loss on a held-out fifth falls no further; warm starts. Where no held-out
    sample can be judged, since each class has one only, 0.01."""
    torch = design.torch
    held = torch.from_numpy(held_out(design.targets.numpy(), seed))
    judged = held & torch.isin(design.targets, design.targets[~held])  # no fit knows the other classes
    if not judged.any():
        return 1e-2
    best, start = (np.inf, L2_PATH[0]), None
    for l2 in L2_PATH:
        start = fit_lbfgs(design, l2, max_iterations, start, (~held).float())
        loss = _held_out_loss(design, start, judged)
        if loss >= best[0]:
            break
        best = (loss, l2)
    return best[1]


def at_an_end(l2: float) -> str:
    """A remark where a chosen strength is the first or last of those tried: the best one may lie beyond."""
    if l2 not in (L2_PATH[0], L2_PATH[-1]):
        return ""
    which = "strongest" if l2 == L2_PATH[0] else "weakest"
    return f"the L2 strength chosen, {l2:g}, is the {which} of those tried: a better one may lie beyond (--l2)"


def _held_out_loss(design: Design, fit: Fit, held: Any) -> float:
    torch = design.torch
    total, at = 0.0, 0
    for x in design.blocks():
        rows = held[at : at + len(x)]
        logits = torch.addmm(fit.bias, x[rows], fit.weights.T)
        targets = design.targets[at : at + len(x)][rows]
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        at += len(x)
    return total / int(held.sum())


def held_out(y: np.ndarray, seed: int = 0) -> np.ndarray:
    """bool[N]: a seeded fifth of the samples, spread evenly within each class."""
    held: np.ndarray = _folds(y, 5, seed) == 0
    return held


def _folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold 0..folds-1 for each sample, spread evenly within each class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % folds
    return fold
