import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from sslviz import ActivationCounts, FeatureSelection, activation_share, discriminative_features, q_score, select_features
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


def test_counts_take_tensors_and_refuse_what_cannot_be():
    H = np.random.default_rng(0).random((30, 12)).astype(np.float32)
    ours = ActivationCounts(12, [1.0]).update(torch.tensor(H)).select(1.0, 20, 80)
    assert_array_equal(ours.features, select_features(H, 1.0, 20, 80).features)
    assert (ours.lower, ours.upper) == (20, 80)
    for eps, words in ([], "eps is empty"), ([-1.0], "eps is -1"), ([np.nan], "eps is nan"):
        with pytest.raises(InputError, match=words):
            ActivationCounts(12, eps)
    with pytest.raises(InputError, match="no sample was counted yet"):
        ActivationCounts(12, [1.0]).select(1.0, 50, 95)
    with pytest.raises(InputError, match="out of order"):
        ActivationCounts(12, [1.0]).update(H).select(1.0, 60, 50)


def test_nobody_elses_arrays_are_frozen():
    mine, shares = np.arange(3), np.zeros(5)
    FeatureSelection(mine, 1.0, 50, 95, shares, 10, 0)
    mine[0] = shares[0] = 7
    found = discriminative_features(np.random.default_rng(0).random((30, 12)), 1.0)
    found[0] = 3


def test_rows_of_any_size_score_alike():
    """Sums and squares that leave the range of their type, or lose their digits at its lower end."""
    H = np.random.default_rng(0).gamma(0.3, size=(20, 16))
    expected = q_score(H, np.arange(8), 1.0)
    for dtype, scales in ((np.float32, (1e-25, 1e-20, 1e-15, 1e18, 3e37)), (np.float64, (1e-200, 1e-170, 1e170, 1e300))):
        rows = H.astype(dtype) / H.max()
        for scale in scales:
            assert_allclose(q_score(rows * dtype(scale), np.arange(8), 1.0), expected, rtol=1e-4, err_msg=f"{scale}")
            assert ActivationCounts(16, [1.0]).update(rows * dtype(scale)).n_zero == 0
    summed = np.array([[0] * 6 + [2e38, 3e38]], np.float32)  # every value is a float32, their sum is not
    assert_allclose(q_score(summed, [7], 1.0), q_score(summed.astype(np.float64), [7], 1.0), rtol=1e-5)


def test_rows_that_differ_little_are_not_flat():
    H = 1 + 1e-5 * np.random.default_rng(0).normal(size=(20, 16))
    for rows in (H, torch.tensor(H)):
        assert (q_score(rows, np.arange(16), 1.0) > 0).all()
