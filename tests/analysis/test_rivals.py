import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.neighbors import NearestNeighbors

from sslviz.analysis.rivals import RIVALS, RivalInput, nearest_neighbours
from sslviz.analysis.rows import score_rows
from sslviz.errors import InputError


def test_similarities_are_scikit_learns():
    rng = np.random.default_rng(0)
    H, train = rng.normal(size=(30, 16)), rng.normal(size=(50, 16))
    distance, rows = NearestNeighbors(n_neighbors=10, metric="cosine").fit(train).kneighbors(H)
    found = nearest_neighbours(H, train, block=7)
    assert_allclose(found.similarities, 1 - distance, atol=1e-5)
    assert np.array_equal(found.rows, rows)


def test_a_train_row_is_not_its_own_neighbour():
    H = np.random.default_rng(0).normal(size=(40, 16))
    distance, _ = NearestNeighbors(n_neighbors=11, metric="cosine").fit(H).kneighbors(H)
    own = np.arange(40)
    assert_allclose(nearest_neighbours(H, H, own, block=16).similarities, 1 - distance[:, 1:], atol=1e-5)
    twin = np.concatenate([H, H[:1]])  # an equal row that is another sample is a neighbour
    assert nearest_neighbours(twin, twin, np.arange(41)).similarities[0, 0] > 0.9999


def test_few_train_rows_repeat_the_last_and_zero_rows_have_similarity_zero():
    H = np.eye(3)
    found = nearest_neighbours(H, H[:2], np.array([0, 1, -1])).similarities
    assert found.shape == (3, 10)
    assert_allclose(found[2], np.zeros(10))
    assert_allclose(nearest_neighbours(np.zeros((1, 3)), H).similarities, np.zeros((1, 10)))


def test_rows_of_other_widths_are_refused():
    with pytest.raises(InputError, match="H has 4 features and H_train 3; expected as many"):
        nearest_neighbours(np.ones((2, 4)), np.ones((5, 3)))


def test_each_rival_by_hand():
    rows = score_rows(np.array([[0, 0, 3.0, 4.0]]), np.array([3]), 0.65)
    given = RivalInput(rows, np.array([[0.9, 0.5, 0.4]]), np.array([0.7]))
    found = {name: RIVALS[name].score(given)[0] for name in RIVALS}
    expected = {"norm": 5, "std": np.std([0, 0, 0.6, 0.8]), "nn1": 0.9, "nn10": 0.6, "msp": 0.7}
    assert_allclose([found[k] for k in expected], list(expected.values()))
    assert set(found) == set(expected)


def test_a_rival_without_its_input_says_nothing():
    rows = score_rows(np.ones((1, 8)), np.array([3]), 1.0)
    found = {name: RIVALS[name].score(RivalInput(rows, None, None)) for name in RIVALS}
    assert {k for k, v in found.items() if v is None} == {"nn1", "nn10", "msp"}


def test_a_train_row_among_few_repeats_its_last_neighbour():
    angles = np.arccos([1.0, 0.9, 0.5])
    H = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest_neighbours(H, H, np.array([0, 1, 2]), k=4)
    assert_allclose(found.similarities[0], [0.9, 0.5, 0.5, 0.5], atol=1e-6)
    assert found.rows[0].tolist() == [1, 2, 2, 2]
    alone = nearest_neighbours(H[:1], H[:1], np.array([0]), k=2)
    assert (alone.similarities.tolist(), alone.rows.tolist()) == ([[-1.0, -1.0]], [[-1, -1]])


def test_similarities_do_not_depend_on_the_scale():
    H = np.random.default_rng(0).normal(size=(6, 16))
    plain = nearest_neighbours(H, H * 1e200, k=3).similarities
    assert_allclose(nearest_neighbours(H.astype(np.float32) * np.float32(1e-20), H, k=3).similarities, plain, atol=1e-6)
