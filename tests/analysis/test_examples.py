import numpy as np
import pytest
from numpy.testing import assert_allclose

from sslviz.analysis.examples import BINS, PER_KIND, FeatureExamples
from sslviz.errors import InputError
from tests.reference import firing


def rows_and_labels(n=70, d=9, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(0.2, 1, (n, d)), 0).astype(np.float32), rng.integers(-1, 3, n), rng.random(n) < 0.7


def filled(H, labels, counted, eps=0.8, sizes=(70,), spread=None):
    rows = np.arange(len(H)) * 2 + 5  # row numbers are not positions
    made = FeatureExamples(H.shape[1], 3, eps, rows if spread is None else rows[spread])
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        made.update(H[part], rows[part], labels[part], counted[part])
        at += size
    return made, rows


def test_examples_are_the_sorted_ends_of_each_feature():
    H, labels, counted = rows_and_labels()
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    made, rows = filled(H, labels, counted)
    table = made.examples()
    assert set(table["kind"]) == {"top", "middle", "low"}
    for j in range(H.shape[1]):
        order = sorted(range(len(H)), key=lambda i: (-unit[i, j], rows[i]))
        mine = table[table["feature"] == j].set_index("kind")
        assert mine.loc["top", "row"].tolist() == rows[order[:PER_KIND]].tolist()
        assert_allclose(mine.loc["top", "value"], unit[order[:PER_KIND], j], rtol=1e-6)
        lowest = sorted(range(len(H)), key=lambda i: (unit[i, j], rows[i]))[:PER_KIND]  # equal values (zeros) by row number
        assert mine.loc["low", "row"].tolist() == rows[lowest].tolist()
        assert mine.loc["top", "rank"].tolist() == list(range(PER_KIND))
        middle = np.sort(unit[:, j])[(70 - PER_KIND) // 2 : (70 - PER_KIND) // 2 + PER_KIND]
        assert_allclose(np.sort(mine.loc["middle", "value"]), middle, rtol=1e-6)


@pytest.mark.parametrize("sizes", [(1, 69), (20, 20, 20, 10), (5, 60, 5)])
def test_chunks_are_the_whole(sizes):
    H, labels, counted = rows_and_labels()
    whole, _ = filled(H, labels, counted)
    parts, _ = filled(H, labels, counted, sizes=sizes)
    assert whole.examples().equals(parts.examples())
    assert whole.class_shares().equals(parts.class_shares())
    assert whole.spread()["counts"].map(list).equals(parts.spread()["counts"].map(list))


def test_class_shares_are_the_equation_over_counted_labelled_rows():
    H, labels, counted = rows_and_labels()
    made, _ = filled(H, labels, counted)
    fires = np.array(firing(H.astype(float), 0.8))
    table = made.class_shares()
    assert set(table["label"]) == {0, 1, 2}
    for line in table.to_dict("records"):
        of = counted & (labels == line["label"])
        assert line["share"] == pytest.approx(100 * fires[of, line["feature"]].mean(), abs=1e-3)


def test_histograms_count_the_spread_rows_only():
    H, labels, counted = rows_and_labels()
    made, _ = filled(H, labels, counted, spread=slice(10, 40))
    unit = H / np.linalg.norm(H, axis=1, keepdims=True)
    table = made.spread()
    for j in range(H.shape[1]):
        counts, edges = np.histogram(unit[10:40, j], BINS)
        assert table["counts"][j].tolist() == counts.tolist()
        assert (table["low"][j], table["high"][j]) == (pytest.approx(edges[0]), pytest.approx(edges[-1]))
    constant, _ = filled(np.ones((70, 4), np.float32), labels, counted)
    assert constant.spread()["counts"].map(sum).tolist() == [70] * 4


def test_few_rows_and_a_class_without_any():
    H, _, _ = rows_and_labels(3)
    made, rows = filled(H, np.array([0, 0, -1]), np.ones(3, bool), sizes=(3,))
    table = made.examples()
    assert (table.groupby(["feature", "kind"]).size() == 3).all()
    assert set(table["row"]) == set(rows)
    assert set(made.class_shares()["label"]) == {0}
    with pytest.raises(InputError):
        made.update(np.full((1, 9), np.nan), np.array([1]), np.array([0]), np.array([True]))


def test_firing_by_the_population_spread_and_never_in_flat_rows():
    row = np.array([0, 0, 3, 4], np.float32)  # unit row (0, 0, .6, .8): population std .357, sample std .412
    H = np.stack([row, np.ones(4, np.float32)])
    made = FeatureExamples(4, 1, 0.65, np.arange(2)).update(H, np.arange(2), np.zeros(2, int), np.ones(2, bool))
    assert made.class_shares()["share"].tolist() == [0, 0, 50, 50]  # with the sample std feature 2 would not fire
    wide = np.full((1, 512), 0.1, np.float32)
    flat = FeatureExamples(512, 1, 0.5, np.arange(1)).update(wide, np.arange(1), np.zeros(1, int), np.ones(1, bool))
    assert flat.class_shares()["share"].max() == 0
