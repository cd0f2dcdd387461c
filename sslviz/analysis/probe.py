"""The linear probe: softmax regression on standardised features, fitted by L-BFGS."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sslviz.arrays import Array, check_embeddings, check_labels, is_torch
from sslviz.errors import InputError

L2_PATH = (1e-1, 1e-2, 1e-3, 1e-4)
_CONSTANT = 1e-6


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """A fitted probe and what it says of the test samples.

    top1: fraction of the judged samples that are right, None when none can be judged · n_judged: test samples whose class
    occurs in train; the other n_unknown are left out of top1 · predictions int64[N] class labels · probabilities float32[N, C]
    over `classes` int64[C] · weights float64[C, D], bias float64[C] on raw features · l2: weight of half the squared weights, on
    standardised features, beside the mean loss · converged, iterations: L-BFGS' · n_constant columns left out.
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
    converged: bool
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
) -> ProbeResult:
    """Fit a linear classifier on frozen features and judge it on others.

    H_train float[N, D], y_train int[N] (-1: no known class, left out) · H_test float[M, D], y_test int[M] · l2: None chooses it
    on a held-out fifth of train. Minimises mean cross-entropy + l2/2 |W|^2; the intercept is free. Columns that are constant
    up to rounding are left out.
    Raises InputError: wrong rank, empty, NaN or infinity, shapes that differ, fewer than two classes in train, l2 < 0.
    """
    train, test = check_embeddings(H_train, "H_train"), check_embeddings(H_test, "H_test")
    if train.shape[1] != test.shape[1]:
        raise InputError(f"H_train has {train.shape[1]} features, H_test {test.shape[1]}; they must be equal.")
    y = check_labels(y_train, len(train), "y_train")
    truth = check_labels(y_test, len(test), "y_test")
    if l2 is not None and not (np.isfinite(l2) and l2 >= 0):
        raise InputError(f"l2 is {l2}; expected a finite number of at least 0.")
    problem = _Problem(train, y)
    strength = _choose_l2(problem, seed, max_iterations) if l2 is None else float(l2)
    fit = problem.fit(np.arange(len(problem.targets)), strength, max_iterations)
    probabilities = problem.probabilities(test, fit)
    predictions = problem.classes[probabilities.argmax(1)]
    judged = np.isin(truth, problem.classes)
    weights, bias = problem.on_raw_features(fit)
    return ProbeResult(
        top1=float((predictions == truth)[judged].mean()) if judged.any() else None,
        n_judged=int(judged.sum()),
        n_unknown=int((~judged).sum()),
        predictions=predictions,
        probabilities=probabilities,
        classes=problem.classes,
        weights=weights,
        bias=bias,
        l2=strength,
        converged=fit.converged,
        iterations=fit.iterations,
        n_constant=problem.n_constant,
    )


def out_of_fold(H: Array, y: Array, l2: float, folds: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions int64[N] and probabilities float32[N, C] for train samples by probes that did not see them.

    Classes C are the sorted classes of y; samples of unknown class (-1) are predicted too. Folds are seeded and, where a class
    has enough members, balanced. Raises InputError: see `linear_probe`.
    """
    H = check_embeddings(H)
    y = check_labels(y, len(H), "y")
    classes = np.unique(y[y >= 0])
    fold = _folds(y, folds, seed)
    predictions = np.empty(len(y), np.int64)
    probabilities = np.zeros((len(y), len(classes)), np.float32)
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
        result = linear_probe(H[kept], y[kept], H[out], y[out], l2)
        predictions[out] = result.predictions
        probabilities[out[:, None], np.searchsorted(classes, result.classes)] = result.probabilities
    return predictions, probabilities


def probabilities(H: np.ndarray, weights: Any) -> np.ndarray:
    """What a stored probe (weights.npz) says of embeddings float[N, D]: float[N, C]."""
    logits = H @ weights["weights"].T + weights["bias"]
    logits = np.exp(logits - logits.max(1, keepdims=True))
    shares: np.ndarray = logits / logits.sum(1, keepdims=True)
    return shares


@dataclass
class _Fit:
    theta: np.ndarray
    converged: bool
    iterations: int


class _Problem:
    """Standardised train features and their classes, as tensors: the matrix products are torch's."""

    def __init__(self, H: Array, y: np.ndarray) -> None:
        import torch

        self.torch: Any = torch
        known = y >= 0
        self.classes = np.unique(y[known])
        if len(self.classes) < 2:
            raise InputError(f"a probe needs two classes; the train samples have {len(self.classes)}.")
        rows = (H if is_torch(H) else torch.from_numpy(np.ascontiguousarray(H))).detach()[torch.from_numpy(known)]
        wide = rows.double()
        mean, std = wide.mean(0), wide.std(0, unbiased=False)
        self.used = std > _CONSTANT * mean.abs().clamp_min(1e-30)
        self.n_constant = int((~self.used).sum())
        self.mean, self.std = mean[self.used], std[self.used]
        self.x = self._standardised(rows)
        self.targets = np.searchsorted(self.classes, y[known])

    def _standardised(self, rows: Any) -> Any:
        return ((rows[:, self.used].double() - self.mean) / self.std).float()

    def fit(self, rows: np.ndarray, l2: float, max_iterations: int, start: np.ndarray | None = None) -> _Fit:
        from scipy.optimize import minimize

        torch = self.torch
        x = self.x if len(rows) == len(self.targets) else self.x[torch.from_numpy(rows)]
        target = torch.from_numpy(self.targets[rows])
        n, width = x.shape
        c = len(self.classes)

        def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
            W = torch.from_numpy(theta[: c * width].reshape(c, width)).float()
            b = torch.from_numpy(theta[c * width :]).float()
            log_p = torch.log_softmax(torch.addmm(b, x, W.T), 1)
            loss = torch.nn.functional.nll_loss(log_p, target).double()
            residual = log_p.exp_()
            residual[torch.arange(n), target] -= 1
            gradient_W = (residual.T @ x).double() / n + l2 * W.double()
            gradient = torch.cat([gradient_W.flatten(), residual.double().mean(0)])
            return float(loss + 0.5 * l2 * W.double().square().sum()), gradient.numpy()

        theta = np.zeros(c * width + c) if start is None else start
        options = {"maxiter": max_iterations, "maxcor": 20, "ftol": 1e-9, "gtol": 1e-5, "maxfun": 2 * max_iterations}
        found = minimize(objective, theta, jac=True, method="L-BFGS-B", options=options)
        return _Fit(found.x, found.status == 0, int(found.nit))

    def logits(self, x: Any, fit: _Fit) -> Any:
        c, width = len(self.classes), x.shape[1]
        W = self.torch.from_numpy(fit.theta[: c * width].reshape(c, width)).float()
        return self.torch.addmm(self.torch.from_numpy(fit.theta[c * width :]).float(), x, W.T)

    def probabilities(self, H: Array, fit: _Fit) -> np.ndarray:
        torch = self.torch
        rows = H.detach() if is_torch(H) else torch.from_numpy(np.ascontiguousarray(H))
        blocks = [torch.softmax(self.logits(self._standardised(b), fit), 1) for b in rows.split(65_536)]
        result: np.ndarray = torch.cat(blocks).cpu().numpy()
        return result

    def on_raw_features(self, fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
        c, width = len(self.classes), self.x.shape[1]
        scaled = fit.theta[: c * width].reshape(c, width) / self.std.cpu().numpy()
        weights = np.zeros((c, len(self.used)))
        weights[:, self.used.cpu().numpy()] = scaled
        return weights, fit.theta[c * width :] - scaled @ self.mean.cpu().numpy()


def _choose_l2(problem: _Problem, seed: int, max_iterations: int) -> float:
    """The strength of a falling path with the lowest loss on a held-out fifth; warm starts, ties to the stronger."""
    fold = _folds(problem.targets, 5, seed)
    held, kept = np.flatnonzero(fold == 0), np.flatnonzero(fold != 0)
    if len(held) == 0:
        return L2_PATH[1]
    best, start = (np.inf, L2_PATH[0]), None
    x = problem.x[problem.torch.from_numpy(held)]
    for l2 in L2_PATH:
        fit = problem.fit(kept, l2, max_iterations, start)
        start = fit.theta
        target = problem.torch.from_numpy(problem.targets[held])
        loss = float(problem.torch.nn.functional.cross_entropy(problem.logits(x, fit), target))
        if loss >= best[0]:
            break
        best = (loss, l2)
    return best[1]


def _folds(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold 0..folds-1 for each sample, spread evenly within each class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % folds
    return fold
