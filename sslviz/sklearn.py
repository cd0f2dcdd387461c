"""The method as scikit-learn estimators, for pipelines and grid searches: a selector of features and a scorer of samples.

    make_pipeline(DiscriminativeFeatures(eps="auto"), StandardScaler(), LogisticRegression())

Both learn D from the train embeddings, without labels (Kalibhat et al., AAAI 2024; docs/method.md 1 and 2).
"""

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from sslviz.analysis.features import EPS, LOWER, UPPER, FeatureSelection, select_features
from sslviz.analysis.score import q_score


class _Selects(BaseEstimator):  # type: ignore[misc]
    def __init__(self, eps: float | Literal["auto"] = EPS, *, lower: float = LOWER, upper: float = UPPER) -> None:
        self.eps = eps
        self.lower = lower
        self.upper = upper

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the discriminative features of X float[N, D], embeddings of the train set; y is ignored.

        Raises ValueError: wrong rank, empty, NaN or infinity, eps < 0, percentiles out of order.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        self.selection_: FeatureSelection = select_features(X, self.eps, self.lower, self.upper)
        return self

    def _rows(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        rows: np.ndarray = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return rows


class DiscriminativeFeatures(SelectorMixin, _Selects):  # type: ignore[misc]
    """Keeps the discriminative features: those whose activation share lies between two percentiles of all shares.

    eps: standard deviations above its sample's mean at which a feature fires, or "auto" · lower, upper: percentiles.
    Fitted: `selection_`, a FeatureSelection (features int64[K], eps, shares float64[D] in percent).
    """

    def _get_support_mask(self) -> np.ndarray:
        check_is_fitted(self)
        mask = np.zeros(self.n_features_in_, dtype=bool)
        mask[self.selection_.features] = True
        return mask


class QScore(_Selects):
    """Q-Scores: `fit` finds D and eps on train embeddings, `score_samples` scores any others; low is badly represented.

    eps: standard deviations above its sample's mean at which a feature fires, or "auto" · lower, upper: percentiles.
    Fitted: `selection_`, a FeatureSelection (features int64[K], eps, shares float64[D] in percent).
    """

    def score_samples(self, X: Any) -> np.ndarray:
        """Q-Score of every row of X float[N, D]: float[N], 0 where no discriminative feature fires.

        Raises ValueError: another width than in `fit`, NaN or infinity; NotFittedError before `fit`.
        """
        scores: np.ndarray = q_score(self._rows(X), self.selection_)
        return scores
