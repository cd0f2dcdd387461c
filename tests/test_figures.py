"""Figures: tables whose numbers can be worked out on paper."""

import numpy as np
import pandas as pd
import pytest

from sslviz import evaluate_score
from sslviz.ui.figures import scores as figures

SCORE = pd.Series([4.0, 3.0, 3.0, 1.0])
CORRECT = pd.Series([True, True, False, False])


def test_curves_by_hand():
    table = figures.curves(SCORE, CORRECT)
    assert table["coverage"].tolist() == [0, 0.25, 0.75, 1]
    assert table["true_positive"].tolist() == [0, 0.5, 1, 1]
    assert table["false_positive"].tolist() == [0, 0, 0.5, 1]
    assert table["error"].tolist()[1:] == [0, pytest.approx(1 / 3), 0.5]
    assert table["found"].tolist() == [1, 1, 0.5, 0]
    assert table["reviewed"].tolist() == [1, 0.75, 0.25, 0]


def test_area_under_the_drawn_roc_is_the_reported_one():
    rng = np.random.default_rng(0)
    score, correct = pd.Series(rng.integers(0, 30, 200) / 10), pd.Series(rng.random(200) < 0.6)
    table = figures.curves(score, correct)
    area = np.trapezoid(table["true_positive"], table["false_positive"])
    assert area == pytest.approx(evaluate_score(score, correct, n_bootstrap=0).auroc)


def test_histogram_counts_every_sample_once():
    correct = pd.Series([True, False, None, True], dtype="boolean")
    table = figures.histogram_table(SCORE, correct, bins=3)
    assert table[["correct", "misclassified", "not judged"]].sum().tolist() == [2, 1, 1]
    assert figures.histogram_table(SCORE, None, bins=3)["images"].tolist() == [1, 0, 3]


def test_figures_draw_their_tables():
    table = figures.curves(SCORE, CORRECT)
    assert list(figures.roc(table).data[0].y) == table["true_positive"].tolist()
    assert list(figures.review_budget(table).data[0].y) == table["found"].tolist()
    assert list(figures.risk_coverage(table, 0.5).data[1].y) == [0.5, 0.5]
    assert list(figures.precision_recall(table, 0.5).data[1].y) == [0.5, 0.5]
    bars = figures.histogram(figures.histogram_table(SCORE, CORRECT, bins=3), "Q").data
    assert [sum(bar.y) for bar in bars] == [pytest.approx(100), pytest.approx(100)]
