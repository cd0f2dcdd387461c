"""Softmax regression on standardised features by L-BFGS, for many fits that share their moments and correlations.

Products with all rows are NumPy's: its OpenBLAS took 240 ms for the two of a pass over 20,000 x 2,048, torch's MKL 360 (on an
AMD processor), and nearly all of a fit is spent there.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sslviz.arrays import Array, is_torch
from sslviz.errors import InputError

_CONSTANT = 1e-6
_GAP = 5e-5
"""Share of the objective by which a fit may lie above the minimum."""
_LEAST_GAP = 1e-6
"""In nats: enough, where classes that are far apart bring the objective so low that float32 gets no nearer."""
_CAREFUL = 6
"""How many times larger a fit's distance from the minimum was than its estimate, at most, in 30 fits of 12 data sets."""
_FIRST = 0.25
"""The first step down the gradient, as a share of the one that would be best if curvature stayed at its mean (0.2 to 0.3 was best
in seven fits)."""
_LEAST_L2 = 1e-6
"""Below it, the curvature that the end of a fit is judged by."""
_GRAM_ERROR = 1e-7
"""Of a float32 Gram matrix's smallest eigenvalues, as a share of its trace."""
BLOCK = 16_384
"""Rows a pass takes at a time."""


@dataclass
class Fit:
    """Weights float32[C, D] and bias float32[C] on standardised features, and how the solver ended; `converged` is None where so
    many epochs were asked for."""

    weights: Any
    bias: Any
    objective: float
    converged: bool | None
    iterations: int


class Design:
    """Standardised train features x and their classes, what every probe on them shares. Constant columns of H stay out.

    Held in memory from one array, or read again at each pass from blocks (H is then a function that gives them anew each time).
    """

    def __init__(self, H: "Array | Callable[[], Iterable[np.ndarray]]", y: np.ndarray) -> None:
        import torch

        self.torch: Any = torch
        self.known = y >= 0
        self.classes = np.unique(y[self.known])
        if len(self.classes) < 2:
            raise InputError(f"a probe needs two classes; the train samples have {len(self.classes)}.")
        self.targets = torch.from_numpy(np.searchsorted(self.classes, y[self.known]))
        self._read: Callable[[], Iterable[Any]] = H if callable(H) else lambda: [H]
        self._x: Any = None
        self._gram: Any = None
        self._axes: Any = None
        mean, std = self._moments()
        used = std > _CONSTANT * mean.abs().clamp_min(1e-30)
        self.n_features = len(used)
        self.columns = np.flatnonzero(used.cpu().numpy())
        self.mean, self.std = mean[used], std[used]
        if not callable(H):
            x, at = torch.empty(len(self.targets), len(self.columns)), 0
            for block in self._standardised_blocks():
                x[at : at + len(block)] = block
                at += len(block)
            self._x, self._read = x, lambda: []  # the raw rows are not kept

    @property
    def width(self) -> int:
        """Columns of x."""
        return len(self.columns) if self._axes is None else int(self._axes.shape[1])

    @property
    def held(self) -> Any:
        """x float32[N, D]. Raises ValueError where it is not held in memory."""
        if self._x is None:
            raise ValueError("this design reads its rows anew at each pass")
        return self._x

    def subset(self, columns: np.ndarray) -> "Design":
        """The same samples with these columns of H only; constant ones among them stay out."""
        places = self.torch.from_numpy(np.flatnonzero(np.isin(self.columns, columns)))
        part = copy(self)
        part.columns = self.columns[places.numpy()]
        part.mean, part.std = self.mean[places], self.std[places]
        part._x = None if self._x is None else self._columns(self._x, places.numpy())
        part._gram = self.gram()[places][:, places]
        return part

    def principal(self, n: int) -> "Design":
        """The same samples along the n main directions of x (PCA), unscaled: with all of them a probe is that of x itself. Of a
        design that is turned already, its n main ones."""
        first, part = self.width - min(n, self.width), copy(self)
        if self._axes is None:
            variance, directions = self.torch.linalg.eigh(self.gram().double())
            part._axes = directions[:, first:].float()
            part._x = None if self._x is None else self._x @ part._axes
            part._gram = self.torch.diag(variance[first:].clamp_min(0)).float()
        else:
            part._axes, part._gram = self._axes[:, first:], self._gram[first:, first:]
            part._x = None if self._x is None else self._x[:, first:]
        return part

    def begin(self, whole: "Design", fit: "Fit") -> "Fit":
        """Where the next fit begins: the weights whose answers are nearest, in the mean of squares, to those of a fit on the
        whole design that this one is a part of."""
        torch = self.torch
        if self._axes is None:
            places = torch.from_numpy(np.searchsorted(whole.columns, self.columns))
            across = whole.gram()[:, places]
        else:
            across = whole.gram() @ self._axes
        factor = torch.linalg.cholesky(self.gram().double() + 1e-3 * torch.eye(self.width, dtype=torch.float64))
        weights = torch.cholesky_solve((fit.weights @ across).double().T, factor).T
        return replace(fit, weights=weights.float())

    def gram(self) -> Any:
        """x^T x / N float32[D, D]: the correlations of the columns. Computed once, shared by subsets."""
        if self._gram is None:
            products = (self.torch.from_numpy(block.numpy().T @ block.numpy()) for block in self.blocks())
            total = sum(product.double() for product in products)
            self._gram = (total / len(self.targets)).float()
        return self._gram

    def blocks(self) -> "Iterator[Any]":
        """Rows of x float32[n, D], all in their order, in blocks."""
        if self._x is None:
            yield from self._standardised_blocks()
        else:
            yield from self._x.split(BLOCK)

    def standardised(self, rows: Any) -> Any:
        """Raw rows float[n, D] as the probe sees them."""
        part = rows if len(self.columns) == rows.shape[1] else self._columns(rows, self.columns)
        x = ((part.double() - self.mean) / self.std).float()
        return x if self._axes is None else x @ self._axes

    def probabilities(self, fit: "Fit", blocks: "Iterable[Array]") -> np.ndarray:
        """What a fit on this design says of raw rows: float32[M, C]."""
        out = []
        for block in blocks:
            for part in self._on_cpu(block).split(BLOCK):
                out.append(self.torch.softmax(self.torch.addmm(fit.bias, self.standardised(part), fit.weights.T), 1))
        shares: np.ndarray = self.torch.cat(out).cpu().numpy()
        return shares

    def on_raw_features(self, fit: "Fit") -> tuple[np.ndarray, np.ndarray]:
        """Weights float64[C, D] and bias float64[C] of a fit for raw rows; columns that stay out have weight 0."""
        scaled = fit.weights.double().cpu().numpy() / self.std.cpu().numpy()
        weights = np.zeros((len(self.classes), self.n_features))
        weights[:, self.columns] = scaled
        return weights, fit.bias.double().cpu().numpy() - scaled @ self.mean.cpu().numpy()

    def _known_blocks(self) -> "Iterator[Any]":
        start = 0
        for block in self._read():
            for part in self._on_cpu(block).split(BLOCK):
                yield part[self.torch.from_numpy(self.known[start : start + len(part)])]
                start += len(part)

    def _on_cpu(self, block: "Array") -> Any:
        return block.detach().cpu() if is_torch(block) else self.torch.from_numpy(np.require(block, requirements=["C", "W"]))

    def _standardised_blocks(self) -> "Iterator[Any]":
        return (self.standardised(block) for block in self._known_blocks())

    def _columns(self, x: Any, places: np.ndarray) -> Any:
        """Some columns of x float[n, D], copied: NumPy's way takes a fifth of torch's time."""
        return self.torch.from_numpy(np.take(x.numpy(), places, axis=1))

    def _moments(self) -> tuple[Any, Any]:
        n, total = 0, 0.0
        for block in self._known_blocks():
            n, total = n + len(block), total + block.double().sum(0)
        mean = total / n
        squares = sum((block.double() - mean).square().sum(0) for block in self._known_blocks())
        return mean, (squares / n).sqrt()


def fit_lbfgs(design: Design, l2: float, max_iterations: int = 1000, start: Fit | None = None, kept: Any = None) -> Fit:
    """Minimise mean cross-entropy + l2/2 |W|^2 by L-BFGS, over the samples where `kept` bool[N] is true (None: all).

    Variables are scaled by a Cholesky factor of (1/C)(1 - 1/C) X^T X / N + l2 I, the Hessian's blocks at equal probabilities, the
    bias alike: fewer passes over the data, many fewer where columns are correlated. Ends when the objective is taken to be within
    1/20,000 of its minimum or a millionth above it: the sum of gradient^2 / (2 curvature), class by class, with the mean of
    p (1 - p) times X^T X / N (at least l2) for the weights' curvature, and that mean for the bias'.
    """
    from scipy.optimize import minimize

    torch = design.torch
    c, width = len(design.classes), design.width
    equal = (1 - 1 / c) / c
    floor = max(l2, _LEAST_L2) + equal * _GRAM_ERROR * width  # columns that depend on one another
    factor = torch.linalg.cholesky(equal * design.gram().double() + floor * torch.eye(width, dtype=torch.float64))
    factor = factor.float()
    n = len(design.targets) if kept is None else int(kept.sum())
    now: dict[str, Any] = {}

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        flat = torch.tensor(theta, dtype=torch.float32)
        W = torch.linalg.solve_triangular(factor, flat[: c * width].view(c, width), upper=False, left=False)
        b = flat[c * width :] / equal**0.5
        loss, gradient_W, gradient_b, bend, at = 0.0, torch.zeros(c, width), torch.zeros(c), torch.zeros(c), 0
        for x in design.blocks():
            targets = design.targets[at : at + len(x)]
            log_p = torch.log_softmax(torch.from_numpy(x.numpy() @ W.numpy().T) + b, 1)
            losses = log_p.gather(1, targets[:, None])[:, 0]
            residual = log_p.exp_()
            spread = residual * (1 - residual)
            residual[torch.arange(len(x)), targets] -= 1
            if kept is not None:
                held = kept[at : at + len(x)]
                losses, residual, spread = losses * held, residual * held[:, None], spread * held[:, None]
            loss -= float(losses.double().sum())
            gradient_W += torch.from_numpy(residual.numpy().T @ x.numpy())
            gradient_b += residual.sum(0)
            bend += spread.sum(0)
            at += len(x)
        gradient_W, gradient_b = gradient_W / n + l2 * W, gradient_b / n
        value = loss / n + 0.5 * l2 * float(W.double().square().sum())
        scaled = torch.linalg.solve_triangular(factor.T, gradient_W, upper=True, left=False)
        bend = (bend / n).clamp_min(_LEAST_L2)
        steep = torch.minimum(
            gradient_W.square().sum(1) / max(l2, _LEAST_L2), scaled.square().sum(1) * (equal / bend).clamp_min(1)
        )
        above = _CAREFUL * 0.5 * float((steep + gradient_b.square() / bend).double().sum())
        now.update(flat=flat, W=W, b=b, value=value, bend=float(bend.mean()), near=above <= max(_GAP * value, _LEAST_GAP))
        return value, torch.cat([scaled.flatten(), gradient_b / equal**0.5]).double().numpy()

    def check(intermediate_result: Any) -> None:
        if now["near"]:
            raise StopIteration

    theta = torch.zeros(c * width + c)
    if start is not None:
        theta = torch.cat([(start.weights @ factor).flatten(), start.bias * equal**0.5])
    at_start = [objective(theta.double().numpy())]
    unit = _FIRST * float(np.linalg.norm(at_start[0][1])) * equal / now["bend"] or 1.0  # the solver's first step has length 1

    def in_units(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = at_start.pop() if at_start else objective(x * unit)
        return value, gradient * unit

    options = {"maxiter": max_iterations, "maxcor": 20, "ftol": 1e-12, "gtol": 0, "maxfun": 2 * max_iterations}
    found = minimize(in_units, theta.double().numpy() / unit, jac=True, method="L-BFGS-B", callback=check, options=options)
    if not torch.equal(now["flat"], torch.tensor(found.x * unit, dtype=torch.float32)):  # the last step was not taken
        objective(found.x * unit)
    return Fit(now["W"], now["b"], now["value"], bool(now["near"]), int(found.nit))


def fit_sgd(design: Design, epochs: int = 100, lr: float = 0.1, batch: int = 256, seed: int = 0) -> Fit:
    """The protocol of the paper: so many epochs of SGD on frozen features; momentum 0.9, no L2, the rate falls to 0 by a cosine
    (ours: the paper names the epochs only). Needs a design that is held in memory."""
    torch = design.torch
    x, targets = design.held, design.targets
    W = torch.zeros(len(design.classes), design.width, requires_grad=True)
    b = torch.zeros(len(design.classes), requires_grad=True)
    optimizer = torch.optim.SGD([W, b], lr=lr, momentum=0.9)
    batch = min(batch, len(targets))
    total = epochs * (len(targets) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(targets), generator=generator)
        for rows in order[: len(order) // batch * batch].split(batch):
            loss = torch.nn.functional.cross_entropy(torch.addmm(b, x[rows], W.T), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        value = float(torch.nn.functional.cross_entropy(torch.addmm(b, x, W.T), targets))
    return Fit(W.detach(), b.detach(), value, None, epochs)
