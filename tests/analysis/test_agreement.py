import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from sslviz.analysis.agreement import agreement, shared_neighbours
from sslviz.errors import InputError


def test_ten_images_by_hand():
    first = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], bool)
    second = np.array([1, 1, 1, 0, 0, 0, 1, 0, 0, 0], bool)
    found = agreement(first, second)
    assert (found.both_right, found.only_first, found.only_second, found.both_wrong) == (3, 3, 1, 3)
    assert found.difference == pytest.approx(0.2)
    assert found.consistency == pytest.approx((0.6 - 0.48) / 0.52)  # .6 x .4 + .4 x .6 agree by chance
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)  # 3 or 4 of 4 discordant images on one side, twice


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_consistency_is_cohens_kappa_and_swapping_turns_the_difference(pairs):
    first, second = np.array(pairs, bool).T
    found, turned = agreement(first, second), agreement(second, first)
    expected = cohen_kappa_score(first, second, labels=[False, True]) if len({*first, *second}) > 1 else None
    assert found.consistency == (None if expected is None else pytest.approx(expected))
    assert found.both_right + found.only_first + found.only_second + found.both_wrong == found.n == len(pairs)
    assert turned.difference == pytest.approx(-found.difference)
    assert turned.p_value == pytest.approx(found.p_value)
    assert found.interval[0] - 1e-9 <= found.difference <= found.interval[1] + 1e-9 or found.n < 20


def test_the_interval_is_paired():
    rng = np.random.default_rng(3)
    first = rng.random(2000) < 0.7
    second = first.copy()
    second[:40] = ~second[:40]
    found = agreement(first, second)
    # the variance of a paired difference: (b + c - (b - c)^2 / n) / n^2; two independent accuracies would give .014 each
    deviation = np.sqrt((40 - (found.only_first - found.only_second) ** 2 / 2000) / 2000**2)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * deviation, rel=0.1)


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ([], [], "at least one"),
        ([True], [True, False], r"second has shape \(2,\)"),
        ([0, 2], [0, 1], "other than 0 and 1"),
    ],
)
def test_wrong_input_is_refused(first, second, says):
    with pytest.raises(InputError, match=says):
        agreement(np.array(first, int), np.array(second, int))


def test_shared_neighbours_by_hand():
    first = [["a", "b"], ["a", "a"], [None, None], ["c", None]]
    second = [["b", "z"], ["a", "b"], [None, None], ["c", "d"]]
    assert shared_neighbours(first, second) == pytest.approx(np.mean([1 / 2, 1 / 2, 1 / 2]))
    assert np.isnan(shared_neighbours([[None]], [[None]]))
