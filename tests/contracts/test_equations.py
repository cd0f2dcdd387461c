"""Both twins, the compiled pass and the differentiable expression, against tests/reference.py."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from sslviz import ActivationCounts, activation_share, discriminative_features, highly_activating, q_score, select_features
from sslviz.analysis.rows import count_firing, score_rows
from tests import reference

sizes = st.floats(2**-10, 8, width=32)
values = st.one_of(st.just(0.0), sizes, sizes.map(lambda v: -v))
matrices = arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(2, 12)), elements=values)
epsilons = st.sampled_from([0.0, 0.25, 0.65, 1.0, 1.5, 2.0])
KINDS = [pytest.param(np.asarray, id="numpy"), pytest.param(torch.as_tensor, id="torch")]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(H=matrices, eps=epsilons)
def test_equations_are_the_papers(kind, H, eps):
    assume(reference.safe(H, eps))
    features = reference.discriminative(H, eps)
    assert_array_equal(np.asarray(highly_activating(kind(H), eps)), reference.firing(H, eps))
    assert_allclose(np.asarray(activation_share(kind(H), eps)), reference.shares(H, eps), atol=1e-9)
    assert_array_equal(np.asarray(discriminative_features(kind(H), eps)), features)
    assert_allclose(np.asarray(q_score(kind(H), np.array(features), eps)), reference.q_score(H, features, eps), atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_q_score_of_the_3_4_5_row(kind):  # unit row (0, 0, .6, .8): mean .35, population std .3571, threshold .582
    H = kind(np.array([[0, 0, 3, 4]]) * 7.0)  # x7: forgetting to normalise gives 2.45 x 5
    assert_allclose(q_score(H, [2, 3], eps=0.65), [0.35])  # the sample std would drop feature 2 and give .45
    assert_allclose(q_score(H, [3], eps=0.65), [0.45])  # leaving out D gives .35; dividing by sigma gives 1.26
    assert_allclose(q_score(H, [0], eps=0.65), [0])


@pytest.mark.parametrize("kind", KINDS)
def test_zero_and_flat_rows_fire_nothing(kind):
    H = kind(np.array([[0, 0, 0, 0], [0.1, 0.1, 0.1, 0.1], [0, 0, 0, 1]], dtype=np.float32))
    assert_array_equal(np.asarray(highly_activating(H, 0.0)).sum(1), [0, 0, 1])
    assert_allclose(q_score(H, [0, 1, 2, 3], 0.0), [0, 0, 0.75])


@pytest.mark.parametrize("kind", KINDS)
def test_firing_is_strictly_above_the_threshold(kind):
    H = kind(np.array([[0.0, 1.0, 2.0]]))  # mean 1 exactly: at eps 0 the middle feature lies on its threshold
    assert_array_equal(np.asarray(highly_activating(H, 0.0)), [[False, False, True]])
    assert_array_equal(np.asarray(activation_share(H, 0.0)), [0, 0, 100])
    assert_allclose(np.asarray(q_score(H, [1], 0.0)), [0])


@pytest.mark.parametrize("kind", KINDS)
def test_flat_rows_of_any_width_fire_nothing(kind):  # their computed mean differs from the value by rounding
    for width in range(2, 60):
        for value in (0.1, 0.7, 1e-3, 123.4):
            H = kind(np.full((1, width), value, dtype=np.float32))
            assert not np.asarray(highly_activating(H, 0.0)).any()
            assert float(q_score(H, np.arange(width), 0.0)[0]) == 0


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
def test_float32_rows_whose_squares_leave_its_range(scale):
    base = np.maximum(np.random.default_rng(0).normal(0, 1, (20, 50)), 0)
    H = (base * scale).astype(np.float32)
    features = np.arange(0, 50, 2)
    assert_allclose(q_score(H, features, 1.0), reference.q_score(base, features, 1.0), rtol=1e-4)
    assert_allclose(q_score(torch.as_tensor(H), features, 1.0), reference.q_score(base, features, 1.0), rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(H=matrices, scale=st.sampled_from([1e-20, 1e-4, 3.0, 1e10]), eps=epsilons)
def test_a_rows_scale_does_not_matter(H, scale, eps):
    assume(reference.safe(H, eps))
    features = np.arange(H.shape[1])
    scaled = H.astype(np.float64) * scale
    assert_allclose(q_score(scaled, features, eps), q_score(H, features, eps), atol=2e-6)
    assert_allclose(q_score(torch.as_tensor(scaled), features, eps), q_score(H, features, eps), atol=2e-6)


@settings(max_examples=30, deadline=None)
@given(H=arrays(np.float32, (12, 9), elements=values), cut=st.integers(1, 11), eps=epsilons)
def test_chunked_is_whole_bit_for_bit(H, cut, eps):
    whole = ActivationCounts(9, [eps, 4.0]).update(H)
    merged = ActivationCounts(9, [eps, 4.0]).update(H[cut:]).merge(ActivationCounts(9, [eps, 4.0]).update(H[:cut]))
    assert_array_equal(merged.counts, whole.counts)
    assert (merged.n_samples, merged.n_zero) == (whole.n_samples, whole.n_zero) == (12, int((H == 0).all(1).sum()))
    a, b = whole.select(eps, 50, 95), merged.select(eps, 50, 95)
    assert_array_equal(a.features, b.features)
    assert_array_equal(a.shares, activation_share(H, eps))


def test_gradient_flows_through_the_excess_and_not_through_the_selection():
    H = torch.tensor([[0.0, 0.0, 3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: q_score(h, [2, 3], 0.65), H)
    q_score(H, [0], 0.65).sum().backward()
    assert_array_equal(H.grad.numpy(), np.zeros((1, 4)))


@pytest.mark.parametrize("size", [1e160, 1e200, 1e300])
def test_rows_whose_squares_overflow_are_scored_like_any_other(size):
    H = np.eye(12) + 0.05 * np.random.default_rng(0).random((12, 12))
    large = H.copy()
    large[3] *= size
    counts, zero = count_firing(large, np.array([1.0, 2.0]))
    expected, _ = count_firing(H, np.array([1.0, 2.0]))
    assert_array_equal(counts, expected)
    assert zero == 0
    ours, plain = score_rows(large, np.arange(12), 1.0), score_rows(H, np.arange(12), 1.0)
    assert_allclose(ours.q, plain.q, rtol=1e-12)
    assert_allclose(ours.norm, plain.norm * np.where(np.arange(12) == 3, size, 1), rtol=1e-12)


def test_half_precision_is_widened():  # the norm of these rows overflows, and the squares of those underflow, in float16
    rng = np.random.default_rng(7)
    base = np.maximum(rng.normal(0, 1, (40, 128)), 0) + (rng.random((40, 128)) < 0.02) * 8.0
    for factor in (60.0, 1e-5, 1.0):
        H = (base * factor).astype(np.float16)
        before = H.copy()
        features = reference.discriminative(H, 4.0)
        assert_array_equal(discriminative_features(H), features)
        assert_allclose(q_score(H, features), reference.q_score(H, features, 4.0), rtol=1e-3, atol=1e-9)
        assert_allclose(q_score(torch.as_tensor(H), features), reference.q_score(H, features, 4.0), rtol=1e-3, atol=1e-9)
        assert_array_equal(H, before)


def test_many_rows_in_several_blocks_equal_few():
    rng = np.random.default_rng(3)
    H = np.maximum(rng.normal(0, 1, (5000, 300)), 0).astype(np.float32)  # 12 MB as float64: more than one block
    selection = select_features(H, 2.0)
    pieces = np.concatenate([q_score(H[i : i + 1], selection) for i in (0, 17, 2500, 4999)])
    assert_array_equal(q_score(H, selection)[[0, 17, 2500, 4999]], pieces)
