"""scikit-learn's own checks of an estimator, and the array functions beside the estimators."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import sslviz
from sslviz.sklearn import DiscriminativeFeatures, QScore
from tests import reference


@parametrize_with_checks([DiscriminativeFeatures(), DiscriminativeFeatures(eps="auto"), QScore(), QScore(eps="auto")])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def embeddings(n, width=32, seed=0):
    return np.random.default_rng(seed).gamma(0.3, size=(n, width))


def test_the_estimators_are_the_papers_loops():
    train, test = embeddings(200), embeddings(50, seed=1)
    chosen = reference.discriminative(train, 2.0, 40, 90)
    selector = DiscriminativeFeatures(2.0, lower=40, upper=90).fit(train)
    assert selector.get_support(indices=True).tolist() == list(chosen)
    assert np.array_equal(selector.transform(test), test[:, chosen])
    scores = QScore(2.0, lower=40, upper=90).fit(train).score_samples(test)
    assert scores == pytest.approx(reference.q_score(test, chosen, 2.0), rel=1e-12)


def test_a_grid_search_over_eps_and_percentiles():
    """Which is then not label-free any more; the search is scikit-learn's."""
    H = embeddings(120)
    y = (H[:, 3] > np.median(H[:, 3])).astype(int)
    search = GridSearchCV(
        make_pipeline(DiscriminativeFeatures(), LogisticRegression()), {"discriminativefeatures__eps": [1.0, 2.0, "auto"]}, cv=3
    )
    search.fit(H, y)
    chosen = sslviz.select_features(H, search.best_params_["discriminativefeatures__eps"]).features
    assert search.best_estimator_[0].get_support(indices=True).tolist() == list(chosen)
    assert search.best_estimator_[1].n_features_in_ == len(chosen)


def test_bad_settings_are_said_at_fit():
    for settings, words in (
        ({"eps": -1}, "eps is -1"),
        ({"lower": 95, "upper": 50}, "out of order"),
        ({"eps": "x"}, 'eps is "x"'),
    ):
        with pytest.raises(sslviz.errors.InputError, match=words):
            QScore(**settings).fit(embeddings(20))
