"""The border: wrong rank, NaN, empty, index, eps, percentiles; each error names the offender."""

import numpy as np
import pytest
import torch

from sslviz import (
    activation_share,
    alpha_req,
    discriminative_features,
    evaluate_score,
    highly_activating,
    linear_probe,
    q_score,
    rank_me,
    select_features,
)
from sslviz.arrays import as_numpy, check_embeddings, is_torch
from sslviz.errors import InputError

H = np.random.default_rng(0).random((30, 30))
FIRST_ARGUMENT = [
    highly_activating,
    activation_share,
    discriminative_features,
    select_features,
    rank_me,
    alpha_req,
    lambda H: q_score(H, [0]),
    lambda H: linear_probe(H, np.arange(30) % 2, np.ones((3, 30)), np.zeros(3, int)),
]


@pytest.mark.parametrize("function", FIRST_ARGUMENT)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_embeddings_are_checked(function, kind):
    broken = H.copy()
    broken[17, 5] = np.nan
    with pytest.raises(InputError, match="NaN in row 17 of 30, column 5; every value must be finite"):
        function(kind(broken))
    broken[17, 5], broken[3, 2] = 0, np.inf
    with pytest.raises(InputError, match="infinity in row 3 of 30, column 2"):
        function(kind(broken))
    with pytest.raises(InputError, match=r"shape \(30,\); expected two dimensions"):
        function(kind(H[0]))
    with pytest.raises(InputError, match=r"empty, shape \(0, 30\)"):
        function(kind(H[:0]))


@pytest.mark.parametrize("bad", ["text", [[1, 2], [3]], [["a", "b"]], np.array([[1 + 2j]])])
def test_what_is_no_matrix_of_numbers_is_refused(bad):
    with pytest.raises(InputError):
        activation_share(bad)


def test_inputs_are_not_changed_and_kind_is_kept():
    before = H.copy()
    assert isinstance(q_score(H, [1, 2]), np.ndarray)
    tensor = torch.as_tensor(H)
    for result in (q_score(tensor, [1]), activation_share(tensor), highly_activating(tensor), discriminative_features(tensor)):
        assert isinstance(result, torch.Tensor)
    select_features(H, "auto")
    rank_me(H)
    np.testing.assert_array_equal(H, before)


@pytest.mark.parametrize(
    ("features", "words"),
    [
        ([30], r"feature index 30 is outside 0\.\.29"),
        ([-1], r"feature index -1 is outside 0\.\.29"),
        ([1, 1], "feature index 1 is given twice"),
        ([0.5], "dtype float64"),
        ([[1]], "one dimension"),
    ],
)
def test_features_are_checked(features, words):
    with pytest.raises(InputError, match=words):
        q_score(H, features)


@pytest.mark.parametrize("eps", [-1, float("nan"), float("inf"), "4", None, True])
def test_eps_is_checked(eps):
    with pytest.raises(InputError, match="eps"):
        activation_share(H, eps)


def test_percentiles_are_checked():
    for lower, upper in ((60, 50), (50, 50), (-1, 95), (50, 101)):
        with pytest.raises(InputError, match="out of order"):
            discriminative_features(H, 4, lower, upper)
    with pytest.raises(InputError, match='eps is "most"'):
        select_features(H, "most")


def test_scores_and_labels_are_checked():
    with pytest.raises(InputError, match=r"correct has shape \(3,\); expected \(4,\)"):
        evaluate_score(np.ones(4), np.ones(3, bool))
    with pytest.raises(InputError, match="NaN in row 1"):
        evaluate_score([0.5, np.nan], np.ones(2, bool))
    with pytest.raises(InputError, match="other than 0 and 1"):
        evaluate_score([0.5, 1], np.array([0, 2]))
    with pytest.raises(InputError, match="y_train has dtype float64"):
        linear_probe(H, np.zeros(30), H, np.zeros(30, int))
    with pytest.raises(InputError, match="H_train has 30 features, H_test 29"):
        linear_probe(H, np.arange(30) % 2, H[:, :29], np.zeros(30, int))
    with pytest.raises(InputError, match="needs two classes; the train samples have 1"):
        linear_probe(H, np.zeros(30, int), H, np.zeros(30, int))


def test_integers_and_lists_are_taken():
    assert q_score([[0, 0, 3, 4]], [3], 0.65).shape == (1,)


@pytest.mark.parametrize("dtype", [">f8", ">f4", np.longdouble, np.float16, np.int16])
def test_every_real_dtype_is_taken(dtype):
    H = np.random.default_rng(0).integers(0, 9, (40, 16)).astype(dtype)
    plain = H.astype(np.float64)
    assert np.array_equal(activation_share(H, 1.0), activation_share(plain, 1.0))
    np.testing.assert_allclose(q_score(H, np.arange(8), 1.0), q_score(plain, np.arange(8), 1.0), rtol=1e-5)


def test_tensors_that_are_no_plain_real_numbers():
    with pytest.raises(InputError, match="H has dtype torch.complex64; expected real numbers"):
        q_score(torch.ones(3, 9, dtype=torch.complex64), [1])
    exact = torch.tensor([[2**24 + 1] + [0] * 8])
    assert as_numpy(check_embeddings(exact))[0, 0] == 2**24 + 1
    assert evaluate_score(torch.tensor([0.5, 0.25, 1.0]).bfloat16(), torch.tensor([True, False, True])).auroc == 1

    class Subclass(torch.Tensor):
        pass

    assert is_torch(torch.ones(2, 9).as_subclass(Subclass))


def test_words_where_numbers_belong_are_said():
    H = np.random.default_rng(0).random((20, 9))
    for call, words in (
        (lambda: select_features(H, lower="50"), "percentiles 50 and 95.0 are out of order"),
        (lambda: evaluate_score(["a", "b"], [True, False]), "score holds values that are no numbers"),
        (lambda: evaluate_score([1.0, 2.0], [True, False], n_bootstrap=-1), "n_bootstrap is -1"),
        (lambda: q_score(H, select_features(H, "auto"), eps="auto"), "eps is auto, but these features were selected at"),
    ):
        with pytest.raises(InputError, match=words):
            call()
