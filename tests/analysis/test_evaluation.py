from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.stats import binom
from sklearn.metrics import average_precision_score, roc_auc_score

from sslviz import evaluate_score
from sslviz.analysis.evaluation import calibration_error
from tests.reference import aurc_and_augrc


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_ranking_metrics_are_scikit_learns_also_with_ties(pairs):
    score, correct = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs])
    report = evaluate_score(score, correct, n_bootstrap=0)
    assert report.base_rate == pytest.approx(correct.mean())
    if 0 < correct.sum() < len(correct):
        assert report.auroc == pytest.approx(roc_auc_score(correct, score))
        assert report.auprc_error == pytest.approx(average_precision_score(~correct, -score))
    if correct.any():
        assert report.auprc == pytest.approx(average_precision_score(correct, score))
        assert report.lift == pytest.approx(report.auprc / correct.mean())


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(12)), st.lists(st.booleans(), min_size=12, max_size=12))
def test_selective_error_against_a_loop(score, correct):
    report = evaluate_score(np.array(score, float), np.array(correct), n_bootstrap=0)
    assert_allclose((report.aurc, report.augrc), aurc_and_augrc(score, correct))


def test_selective_error_by_hand():  # best first: right, wrong, right -> errors 0/1, 1/2, 1/3 and 0/3, 1/3, 1/3
    report = evaluate_score([3, 2, 1], [True, False, True], n_bootstrap=0)
    assert report.aurc == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert report.augrc == pytest.approx((0 + 1 / 3 + 1 / 3) / 3)


def test_ties_are_averaged_over_orders():
    tied = evaluate_score([1, 1, 0], [True, False, True], n_bootstrap=0)
    first, second = (evaluate_score(s, [True, False, True], n_bootstrap=0) for s in ([2, 1, 0], [1, 2, 0]))
    assert tied.aurc == pytest.approx((first.aurc + second.aurc) / 2)
    assert tied.augrc == pytest.approx((first.augrc + second.augrc) / 2)


def test_one_outcome_has_no_auroc_and_says_why():
    score = np.random.default_rng(0).random(40)
    report = evaluate_score(score, np.ones(40, bool))
    assert report.auroc is None
    assert (report.auprc, report.base_rate, report.lift) == (1.0, 1.0, 1.0)
    assert report.reason == "all 40 samples are correct: nothing to separate"
    assert report.verdict == "cannot be judged here"
    wrong = evaluate_score(score, np.zeros(40, bool))
    assert (wrong.auroc, wrong.auprc, wrong.lift) == (None, None, None)


def test_resamples_of_one_outcome_are_left_out_and_counted():
    correct = np.arange(40) == 7
    report = evaluate_score(np.random.default_rng(0).random(40), correct, n_bootstrap=1000)
    assert report.n_left_out == pytest.approx(1000 * (1 - 1 / 40) ** 40, abs=60)  # a draw misses the one sample with this chance
    low, high = report.intervals["auroc"]
    assert low <= report.auroc <= high


def test_a_constant_score_knows_nothing():
    correct = np.random.default_rng(0).random(50) < 0.7
    report = evaluate_score(np.full(50, 0.25), correct)
    assert report.auroc == 0.5
    assert report.auprc == pytest.approx(report.base_rate)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(100):  # correct scores N(1, 1), wrong N(0, 1): AUROC = Phi(1 / sqrt 2) = .7602
        rng = np.random.default_rng(seed)
        correct = rng.random(200) < 0.6
        report = evaluate_score(rng.normal(correct * 1.0, 1), correct, n_bootstrap=200, seed=seed)
        low, high = report.intervals["auroc"]
        hits += low <= 0.7602 <= high
    assert 86 <= hits <= 100  # 95 of 100 expected; fewer than 86 has a chance of 1e-4


def test_same_seed_same_interval():
    rng = np.random.default_rng(0)
    score, correct = rng.random(60), rng.random(60) < 0.5
    assert evaluate_score(score, correct, seed=3) == evaluate_score(score, correct, seed=3)
    assert evaluate_score(score, correct, seed=3).intervals != evaluate_score(score, correct, seed=4).intervals


@pytest.mark.parametrize(
    ("shift", "n", "verdict"),
    [
        (2.0, 400, "predicts"),
        (0.35, 1500, "weakly predicts"),
        (0.0, 400, "does not separate here"),
        (-1.0, 400, "upside down here"),
        (-0.3, 1500, "upside down here"),
    ],
)
def test_each_verdict_is_reached(shift, n, verdict):
    rng = np.random.default_rng(0)
    correct = rng.random(n) < 0.7
    assert evaluate_score(rng.normal(correct * shift, 1), correct).verdict == verdict


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_calibration_error_is_torchmetrics(seed, n):
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(n).astype(np.float32), rng.random(n) < 0.7
    theirs = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct.astype(int)), n_bins=15)
    assert calibration_error(confidence, correct) == pytest.approx(float(theirs), abs=1e-5)


def test_calibration_error_by_hand():
    """Bins of a third: sure 1.0 and right, 0.9 and wrong share one (gap 0.45); 1/3 is the first one's and right (gap 2/3)."""
    found = calibration_error(np.array([1.0, 0.9, 1 / 3]), np.array([True, False, True]), n_bins=3)
    assert found == pytest.approx((abs(1 - 1.9) + abs(1 - 1 / 3)) / 3)
    assert calibration_error(np.empty(0), np.empty(0, bool)) is None


def test_verdicts_begin_where_they_say():
    report = evaluate_score(np.arange(40.0), np.arange(40) % 3 > 0)
    for interval, verdict in (
        ((0.6, 0.9), "predicts"),
        ((0.599, 0.9), "weakly predicts"),
        ((0.5, 0.9), "does not separate here"),
        ((0.1, 0.5), "does not separate here"),
        ((0.1, 0.499), "upside down here"),
    ):
        assert replace(report, intervals={**report.intervals, "auroc": interval}).verdict == verdict


def test_intervals_are_the_middle_95_percent_of_the_resamples():
    correct = np.arange(2000) % 2 > 0
    low, high = evaluate_score(np.zeros(2000), correct, n_bootstrap=4000).intervals["base_rate"]
    expected = binom.ppf([0.025, 0.975], 2000, 0.5) / 2000  # a resample's share correct is a binomial
    assert_allclose([low, high], expected, atol=0.0012)
