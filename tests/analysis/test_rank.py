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


def test_ranks_before_the_eleventh_and_after_half_do_not_count():
    rng = np.random.default_rng(0)
    values = np.arange(1, 101) ** -1.2
    values[:10] = 1.0  # a plateau
    values[50:] = 1e-9  # and a cliff
    basis = rng.normal(size=(4000, 100))
    H = np.linalg.qr(basis - basis.mean(0))[0] * values**0.5
    assert alpha_req(H) == pytest.approx(1.2, abs=1e-6)
    wide = np.linalg.qr(rng.normal(size=(500, 101)))[0][:, 1:] * np.arange(1, 101) ** -0.6
    assert 0.5 < alpha_req(wide.T) < 2  # 100 samples of 500 features: ranks up to 50


def test_directions_that_rounding_made_are_none():
    rng = np.random.default_rng(0)
    H = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 64))
    for dtype in (np.float64, np.float32):
        with pytest.raises(InputError, match="fewer positive eigenvalues"):
            alpha_req(H.astype(dtype))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_ranks_do_not_depend_on_the_scale(scale):
    H = np.random.default_rng(0).normal(size=(80, 40)) * np.linspace(0.1, 3, 40)
    assert rank_me(H * scale) == pytest.approx(rank_me(H), rel=1e-9)
    assert alpha_req(H * scale) == pytest.approx(alpha_req(H), rel=1e-9)


def test_of_many_rows_a_sample_stands_for_all(monkeypatch):
    monkeypatch.setattr("sslviz.analysis.rank.MAX_ROWS", 100)
    H = np.random.default_rng(0).normal(size=(400, 20))
    H[:100] = H[0]  # the first rows alone have one direction
    assert rank_me(H) > 10
    assert rank_me(H) == rank_me(H)
