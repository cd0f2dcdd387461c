"""The Q-Score regulariser: what is added to an encoder's own loss so that its representation becomes better (docs/method.md 4).

    L_SSL - lambda1 * 1/M sum_i 1[Q_i < alpha] Q_i + lambda2 * sum_k 1[|H_k|_1 > beta] |H_k|_1

on a batch's M unit rows; alpha is the mean of Q, beta the mean of the columns' L1 norms (Kalibhat et al., AAAI 2024).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import distributed, nn

from sslviz.analysis import expression
from sslviz.analysis.features import FeatureSelection
from sslviz.arrays import check_eps, check_features
from sslviz.errors import InputError
from sslviz.methods import Clock, Method, Step

Sum = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RegulariserWeights:
    """Of the two terms; 1e-4 each as published. The rest is ours.

    lasso: the second term over all columns, the paper's own alternative · normalise: rows scaled to L2 norm 1 ·
    empty: what the Q of a sample is in which no feature of D fires, 0 as published, where it gets no gradient, or the excess
    of its highest feature of D. Raises InputError: a weight below 0, another `empty`.
    """

    lambda1: float = 1e-4
    lambda2: float = 1e-4
    lasso: bool = False
    normalise: bool = True
    empty: Literal["zero", "highest"] = "zero"

    def __post_init__(self) -> None:
        for name in ("lambda1", "lambda2"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected a finite number of at least 0.")
        if self.empty not in ("zero", "highest"):
            raise InputError(f'empty is "{self.empty}"; expected "zero" or "highest".')


class Selection(NamedTuple):
    """The discriminative features int[K] of an encoder, and the eps they were found with; a FeatureSelection has both too."""

    features: np.ndarray
    eps: float


class Terms(NamedTuple):
    """The two weighted terms as they enter the loss, and what else is worth watching; scalars."""

    q_term: torch.Tensor
    l1_term: torch.Tensor
    mean_q: torch.Tensor
    """alpha."""
    mean_l1: torch.Tensor
    """beta."""
    empty_share: torch.Tensor


class Regulariser(nn.Module):
    """Both terms on features float[M, D] of the branch that receives gradients; D and eps come from the kept branch's.

        regulariser = Regulariser(select_features(H_train))
        terms = regulariser(features)
        loss = ssl_loss + terms.q_term + terms.l1_term

    selection: see `select_features`; it may be set anew during training and is not part of the state_dict.
    The selection L_i ∩ D, alpha and beta are constants of a batch: gradients flow through h_ij - mu_i and |h_ij| (ours). Over
    several processes alpha and beta are the whole batch's, and gradients that are averaged equal those of one process.
    Raises InputError: eps < 0, features of D that are no indices of the rows', or selected among another number.
    """

    features: torch.Tensor

    def __init__(self, selection: Selection | FeatureSelection, weights: RegulariserWeights | None = None) -> None:
        super().__init__()
        self.weights = weights or RegulariserWeights()
        self.register_buffer("features", torch.empty(0), persistent=False)
        self.selection = selection

    @property
    def selection(self) -> Selection:
        """D and eps."""
        return Selection(self.features.cpu().numpy().copy(), self.eps)

    @selection.setter
    def selection(self, selection: Selection | FeatureSelection) -> None:
        self._width = len(selection.shares) if isinstance(selection, FeatureSelection) else None
        least = int(max(selection.features, default=-1)) + 1
        features = check_features(selection.features, self._width or least)
        self.features = torch.from_numpy(features.copy()).to(self.features.device)
        self.eps = check_eps(selection.eps)
        self._least = least

    def forward(self, h_MD: torch.Tensor) -> Terms:
        width = h_MD.shape[1]
        if self._least > width:
            raise InputError(f"the rows have {width} features; feature {self._least - 1} of D is outside.")
        if self._width not in (None, width):
            raise InputError(f"the rows have {width} features; D was selected among {self._width}.")
        own, (total, ranks) = self.weights, _summed()
        h_MD = h_MD.to(torch.promote_types(h_MD.dtype, torch.float32))
        if own.normalise:
            h_MD = expression.unit_rows(h_MD)
        q_M = expression.q_score(h_MD, self.features, self.eps)
        empty_M = ~expression.firing(h_MD, self.eps)[:, self.features].any(1)
        if own.empty == "highest" and len(self.features):
            highest_M = h_MD[:, self.features].amax(1) - h_MD.mean(1)
            q_M = torch.where(empty_M, highest_M, q_M)
        m = total(h_MD.new_full((), len(h_MD)))
        alpha = total(q_M.detach().sum()) / m
        q_term = -own.lambda1 * (q_M * (q_M.detach() < alpha)).mean()

        l1_D = abs(h_MD).sum(0)
        whole_D = total(l1_D.detach())
        beta = whole_D.mean()
        counted = l1_D if own.lasso else l1_D * (whole_D > beta)
        l1_term = own.lambda2 * ranks * counted.sum()  # ranks: gradients are averaged, the sum runs over all rows
        return Terms(q_term, l1_term, alpha, beta, total(empty_M.sum().float()) / m)


class Objective(nn.Module):
    """A method's loss plus the regulariser's terms, and how hard each of the three pulls at the features."""

    def __init__(self, method: Method, regulariser: Regulariser | None) -> None:
        super().__init__()
        self.method = method
        self.regulariser = regulariser
        self._pulled: dict[str, torch.Tensor] = {}
        self.features = torch.empty(0)
        """Of the last step, float[M, D]."""

    def forward(self, views: list[torch.Tensor], clock: Clock) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """(loss, the method's outputs, what is worth watching)."""
        step: Step = self.method(views, clock)
        self.features = step.features.detach()
        if self.regulariser is None:
            return step.loss, step.outputs, {}
        terms: Terms = self.regulariser(step.features)
        self._pulled = {
            "q_gradient": _gradient(terms.q_term, step.features),
            "l1_gradient": _gradient(terms.l1_term, step.features),
        }
        step.features.retain_grad()
        self._pulled["features"] = step.features
        watched = {"ssl_loss": step.loss.detach(), **{k: v.detach() for k, v in terms._asdict().items()}}
        sizes = {name: abs(watched[name]) for name in ("ssl_loss", "q_term", "l1_term")}
        whole = sum(sizes.values())
        watched |= {"q_share": sizes["q_term"] / whole, "l1_share": sizes["l1_term"] / whole}
        return step.loss + terms.q_term + terms.l1_term, step.outputs, watched

    def gradient_norms(self) -> dict[str, float]:
        """After backward: Frobenius norms of the three losses' gradients with respect to the batch's features (ours)."""
        if not self._pulled:
            return {}
        features, q, l1 = (self._pulled[k] for k in ("features", "q_gradient", "l1_gradient"))
        self._pulled = {}
        whole = features.grad
        assert whole is not None
        return {
            "ssl_gradient": float((whole - q - l1).norm()),
            "q_gradient": float(q.norm()),
            "l1_gradient": float(l1.norm()),
        }


def _gradient(term: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(term, features, retain_graph=True)[0]


def _summed() -> tuple[Sum, int]:
    """(sum over processes, their number)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return lambda value: value, 1

    def total(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    return total, distributed.get_world_size()
