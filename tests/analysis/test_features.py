import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sslviz import ActivationCounts, activation_share, discriminative_features, q_score, select_features
from sslviz.errors import InputError


def one_hot(shares, n=20, d=10):
    """Rows in which exactly one feature fires; feature j fires in shares[j] of n rows."""
    rows = [j for j, count in enumerate(shares) for _ in range(count)]
    H = np.zeros((n, d))
    H[np.arange(len(rows)), rows] = 1
    return H


def test_band_of_shares_by_hand():  # shares 0 0 0 0 5 10 15 20 20 30 %; P50 = 7.5, P95 = 25.5
    H = one_hot([0, 0, 0, 0, 1, 2, 3, 4, 4, 6])
    assert_allclose(activation_share(H, 2.0), [0, 0, 0, 0, 5, 10, 15, 20, 20, 30])
    assert_array_equal(discriminative_features(H, 2.0), [5, 6, 7, 8])
    assert_array_equal(discriminative_features(H, 2.0, 50, 100), [5, 6, 7, 8, 9])


def test_dead_features_count_in_the_percentiles_and_are_told():  # leaving the dead out would give D = 4 features
    H = one_hot([0, 0, 0, 0, 0, 0, 5, 5, 5, 5])
    selection = select_features(H, 2.0)
    assert_array_equal(selection.features, np.arange(10))  # P50 = 0, ties at both ends are kept
    assert selection.n_dead == 6


def test_ends_of_the_band_belong_to_it():
    H = one_hot([1, 2, 3, 4, 10], d=5)
    assert_array_equal(discriminative_features(H, 1.5, 25, 75), [1, 2, 3])


def test_auto_eps_is_the_largest_with_enough_firing():
    rng = np.random.default_rng(0)
    H = np.maximum(rng.normal(0, 1, (400, 64)), 0)
    selection = select_features(H, "auto")
    shares = {e: activation_share(H, e).mean() for e in np.arange(1, 33) * 0.25}
    assert selection.eps == max(e for e, share in shares.items() if share >= 3.7)
    assert selection.auto
    assert not selection.sparse


def test_a_share_of_exactly_3_7_percent_is_enough():
    H = np.zeros((1, 1000))
    H[0, :37] = 1  # the ones lie 5.10 standard deviations above the mean
    assert select_features(H, "auto").eps == 5.0


def test_counts_have_a_border_of_their_own():
    counts = ActivationCounts(8, [1.0])
    with pytest.raises(InputError, match="H has 1 features; these counts are of 8"):
        counts.update(np.ones((3, 1)))
    with pytest.raises(InputError, match="NaN in row 0"):
        counts.update(np.full((1, 8), np.nan))
    with pytest.raises(InputError, match="other eps"):
        counts.merge(ActivationCounts(8, [2.0]))
    with pytest.raises(InputError, match="eps 2 was not counted; there is: 1"):
        counts.update(np.eye(8)).shares(2.0)


def test_auto_eps_leaves_zero_rows_out_of_the_mean():
    rng = np.random.default_rng(0)
    H = np.maximum(rng.normal(0, 1, (200, 64)), 0)
    padded = np.concatenate([H, np.zeros((800, 64))])
    assert select_features(padded, "auto").eps == select_features(H, "auto").eps
    assert select_features(padded, "auto").n_zero == 800


def test_auto_eps_flags_features_that_never_stand_out():
    H = np.ones((10, 200))
    H[:, 0] = 50  # one of 200 fires: 0.5 %
    selection = select_features(H, "auto")
    assert (selection.eps, selection.sparse) == (0.25, True)


def test_a_selection_is_frozen_and_keeps_its_eps():
    H = one_hot([0, 0, 0, 0, 1, 2, 3, 4, 4, 6])
    selection = select_features(H, 2.0)
    with pytest.raises(ValueError, match="read-only"):
        selection.features[0] = 3
    with pytest.raises(AttributeError):
        selection.eps = 3.0
    assert_array_equal(q_score(H, selection), q_score(H, selection.features, 2.0))
    with pytest.raises(InputError, match="selected at eps 2"):
        q_score(H, selection, eps=4.0)
    with pytest.raises(InputError, match="H has 9 features; these were selected among 10"):
        q_score(H[:, :9], selection)


def test_no_feature_between_the_percentiles_gives_an_empty_set():
    H = one_hot([0, 20], d=2)
    selection = ActivationCounts(2, [0.5]).update(H).select(0.5, 40, 60)
    assert len(selection.features) == 0
    assert_array_equal(q_score(H, selection), np.zeros(20))
