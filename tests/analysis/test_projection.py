import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.manifold import trustworthiness

from sslviz.analysis.projection import Projection
from sslviz.errors import InputError


def rows(n, d=24, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 15, 16, 17])
def test_any_number_of_rows_gets_finite_places(n):  # N03
    made = Projection()
    xy = made.fit(rows(n))
    assert (xy.shape, xy.dtype) == ((n, 2), np.float32)
    assert np.isfinite(xy).all()
    assert made.method == ("umap" if n >= 16 else "pca")
    assert made.n_different == n


def test_equal_rows_lie_on_one_spot():  # N03
    made = Projection()
    assert np.ptp(made.fit(np.ones((50, 24), np.float32)), axis=0).tolist() == [0, 0]
    assert (made.method, made.n_different) == ("pca", 1)
    kinds = np.random.default_rng(0).integers(0, 7, 350)
    xy = made.fit(rows(7)[kinds])
    assert (made.method, made.n_different) == ("pca", 7)
    for k in range(7):
        assert np.ptp(xy[kinds == k], axis=0).max() < 1e-5
    assert len(np.unique(xy.round(4), axis=0)) == 7
    many = np.random.default_rng(0).integers(0, 30, 350)
    xy = made.fit(rows(30)[many])
    assert (made.method, made.n_different) == ("umap", 30)
    assert len(np.unique(xy, axis=0)) == 30


def test_the_stand_in_is_the_two_main_directions():
    H = rows(12)
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    centred = unit - unit.mean(0)
    u, s, _ = np.linalg.svd(centred.astype(float), full_matrices=False)
    assert_allclose(np.abs(Projection().fit(H)), np.abs(u[:, :2] * s[:2]), atol=1e-3)


def test_one_column_and_a_zero_row():
    assert np.isfinite(Projection().fit(rows(40, 1))).all()
    H = rows(20)
    H[3] = 0
    assert np.isfinite(Projection().fit(H)).all()
    with pytest.raises(InputError, match="NaN"):
        Projection().fit(np.full((4, 3), np.nan))


def test_length_does_not_matter_and_the_seed_fixes_the_map():
    H = rows(60)
    one = Projection(seed=3).fit(H)
    assert np.array_equal(one, Projection(seed=3).fit(H))
    assert_allclose(one, Projection(seed=3).fit(H * 8), atol=1e-3)
    assert not np.allclose(one, Projection(seed=4).fit(H))


def test_neighbours_stay_neighbours_and_new_rows_join_their_group():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 32)) * 3
    label = rng.integers(0, 5, 400)
    H = centres[label] + rng.normal(size=(400, 32)) * 0.4
    made = Projection()
    xy = made.fit(H[:300])
    assert trustworthiness(H[:300] / np.linalg.norm(H[:300], axis=1, keepdims=True), xy, n_neighbors=10) > 0.85
    placed = made.transform(H[300:] * 20)
    middle = np.array([xy[label[:300] == k].mean(0) for k in range(5)])
    assert (np.linalg.norm(placed[:, None] - middle, axis=2).argmin(1) == label[300:]).mean() > 0.95


def test_new_rows_are_placed_by_direction_alone():
    H = rows(8)
    made = Projection()
    placed = made.fit(H)
    assert_allclose(made.transform(H[:3] * 50), placed[:3], atol=1e-4)
