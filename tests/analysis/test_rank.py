import numpy as np
import pytest

from sslviz import alpha_req, rank_me
from sslviz.errors import InputError


def test_rank_of_orthogonal_directions_is_their_number():
    assert rank_me(np.eye(20)) == pytest.approx(20, rel=1e-4)
    assert rank_me(np.tile([1.0, 2, 3, 4], (30, 1))) == pytest.approx(1, abs=1e-4)


def test_rank_me_is_the_published_formula():
    H = np.random.default_rng(0).normal(size=(120, 40)) * np.linspace(0.1, 3, 40)
    s = np.linalg.svd(H, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert rank_me(H) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert rank_me(H.T) == pytest.approx(rank_me(H), rel=1e-6)


def test_float32_rows_of_few_samples_have_the_rank_of_their_doubles():
    rng = np.random.default_rng(0)
    H = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 512))
    assert rank_me(H.astype(np.float32)) == pytest.approx(rank_me(H), rel=1e-3)


def test_alpha_is_the_planted_power_law():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(4000, 100)))
    basis -= basis.mean(0)
    H = np.linalg.qr(basis)[0] * np.arange(1, 101) ** -0.6  # eigenvalues fall as rank ** -1.2
    assert alpha_req(H) == pytest.approx(1.2, abs=1e-6)
    assert alpha_req(H + 5) == pytest.approx(1.2, abs=1e-4)  # the covariance is centred


def test_alpha_needs_enough_ranks():
    with pytest.raises(InputError, match="at least 24"):
        alpha_req(np.eye(23))
