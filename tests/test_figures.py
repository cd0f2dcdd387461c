"""Figures: tables whose numbers can be worked out on paper."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sslviz import evaluate_score
from sslviz.ui.figures import compare, compression, features, finetune, projection
from sslviz.ui.figures import scores as figures

SCORE = pd.Series([4.0, 3.0, 3.0, 1.0])
CORRECT = pd.Series([True, True, False, False])


def test_curves_by_hand():
    table = figures.curves(SCORE, CORRECT)
    assert table["coverage"].tolist() == [0, 0.25, 0.75, 1]
    assert table["true_positive"].tolist() == [0, 0.5, 1, 1]
    assert table["false_positive"].tolist() == [0, 0, 0.5, 1]
    assert table["error"].tolist()[1:] == [0, pytest.approx(1 / 3), 0.5]
    assert table["found"].tolist() == [1, 1, 0.5, 0]
    assert table["reviewed"].tolist() == [1, 0.75, 0.25, 0]


def test_area_under_the_drawn_roc_is_the_reported_one():
    rng = np.random.default_rng(0)
    score, correct = pd.Series(rng.integers(0, 30, 200) / 10), pd.Series(rng.random(200) < 0.6)
    table = figures.curves(score, correct)
    area = np.trapezoid(table["true_positive"], table["false_positive"])
    assert area == pytest.approx(evaluate_score(score, correct, n_bootstrap=0).auroc)


def test_histogram_counts_every_sample_once():
    correct = pd.Series([True, False, None, True], dtype="boolean")
    table = figures.histogram_table(SCORE, correct, bins=3)
    assert table[["correct", "misclassified", "not judged"]].sum().tolist() == [2, 1, 1]
    assert figures.histogram_table(SCORE, None, bins=3)["images"].tolist() == [1, 0, 3]


def test_figures_draw_their_tables():
    table, other = figures.curves(SCORE, CORRECT), figures.curves(-SCORE, CORRECT)
    found = {"Q-Score": table, "its opposite": other}
    assert list(figures.roc(found).data[0].y) == table["true_positive"].tolist()
    assert list(figures.roc(found).data[1].y) == other["true_positive"].tolist()
    assert [line.name for line in figures.roc(found).data] == ["Q-Score", "its opposite", "no information"]
    assert len({line.line.color for line in figures.roc(found).data}) == 3
    assert list(figures.review_budget(found).data[0].y) == table["found"].tolist()
    assert list(figures.risk_coverage(found, 0.5).data[2].y) == [0.5, 0.5]
    assert list(figures.precision_recall(found, 0.5).data[2].y) == [0.5, 0.5]
    bars = figures.histogram(figures.histogram_table(SCORE, CORRECT, bins=3), "Q").data
    assert [sum(bar.y) for bar in bars] == [pytest.approx(100), pytest.approx(100)]


# ---- features


def feature_table():
    return pd.DataFrame({"feature": range(4), "share": [5.0, 20.0, 5.0, 0.0], "chosen": [True, False, True, False]})


def test_shares_are_sorted_and_split_by_the_band():
    ranked = features.sorted_shares(feature_table())
    assert ranked["feature"].tolist() == [1, 0, 2, 3]
    figure = features.shares(ranked, (5.0, 5.0), at=2)
    inside, outside, marked = figure.data
    assert (list(inside.x), list(inside.y), list(inside.customdata)) == ([2, 3], [5, 5], [0, 2])
    assert (list(outside.x), list(outside.customdata)) == ([1, 4], [1, 3])
    assert list(marked.x) == [3]


def test_expression_bars_part_the_features_by_what_they_do():
    figure = features.expression(np.array([0.1, 0.9, 0.8, 0.2]), np.array([1, 2]), np.array([2]), 0.5, 0.7)
    bars = {bar.name: list(bar.customdata) for bar in figure.data}
    assert bars == {"does not fire (2)": [0, 3], "fires, outside D (1)": [1], "fires, in D (1)": [2]}
    assert [line.y0 for line in figure.layout.shapes] == [0.5, 0.7]


def test_histogram_of_a_feature_and_its_classes():
    table = features.values(0.0, 1.0, [1, 0, 9])
    assert table["low"].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    assert list(features.value_histogram(table).data[0].y) == [1, 0, 3]  # square roots
    classes = pd.DataFrame({"title": [f"c{i}" for i in range(25)], "share": np.arange(25.0)})
    bar = features.class_bars(classes).data[0]
    assert (len(bar.x), bar.x[-1], bar.y[-1]) == (20, 24, "c24")
    assert features.class_bars(pd.DataFrame({"title": ["<b>x</b>"], "share": [1.0]})).data[0].y[0] == "&lt;b&gt;x&lt;/b&gt;"


# ---- the map


def winding_number(polygon, point):
    """How often the polygon goes round the point: the sum of the angles, over a full turn."""
    d = np.asarray(polygon, float) - point
    angle = np.arctan2(d[:, 1], d[:, 0])
    turns = np.diff(np.append(angle, angle[0]))
    return round(((turns + np.pi) % (2 * np.pi) - np.pi).sum() / (2 * np.pi))


@given(st.integers(0, 10_000), st.integers(3, 40))
def test_inside_a_lasso_is_what_it_winds_round(seed, corners):
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(0.3, 2, corners)
    polygon = np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    xy = rng.normal(size=(60, 2)).astype(np.float32)
    expected = [winding_number(polygon, p) % 2 == 1 for p in xy.astype(float)]
    assert projection.inside(polygon, xy).tolist() == expected


def test_a_lasso_that_is_concave_and_a_box_from_any_corner():
    u = [(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)]
    xy = np.array([[0.5, 2], [1.5, 2], [2.5, 2], [1.5, 0.5], [9, 9]])
    assert projection.inside(u, xy).tolist() == [True, False, True, True, False]
    box = projection.polygon_of({"box": [{"x": [3, 0], "y": [0, 3]}]})
    assert projection.inside(box, xy).tolist() == [True, True, True, True, False]
    assert projection.polygon_of({"points": [1]}) is None
    lasso = projection.polygon_of({"lasso": [{"x": [0, 1, 1], "y": [0, 0, 1]}], "box": []})
    assert lasso.tolist() == [[0, 0], [1, 0], [1, 1]]


def test_the_drawn_sample_has_every_group_by_its_share():
    groups = pd.Series(["big"] * 9_000 + ["small"] * 990 + ["tiny"] * 10)
    drawn = projection.drawn_points(groups, most=1_000)
    counts = groups.iloc[drawn].value_counts()
    assert len(drawn) == len(set(drawn)) == 1_000
    assert abs(counts["big"] - 900) <= 2
    assert abs(counts["small"] - 99) <= 2
    assert counts["tiny"] >= 1
    assert np.array_equal(drawn, projection.drawn_points(groups, most=1_000))
    assert projection.drawn_points(groups.head(50), most=1_000).tolist() == list(range(50))


def test_classes_that_are_picked_stand_out():
    titles = pd.Series([f"c{k}" for k in range(100)] + [None])
    shown = projection.top_classes(titles, ["c57", "c3"])
    assert shown[shown.notna()].value_counts().to_dict() == {"other classes": 98, "c57": 1, "c3": 1}
    assert shown.isna().tolist() == titles.isna().tolist()


def test_a_legend_has_at_most_twenty_classes():
    titles = pd.Series([f"c{i:02d}" for i in range(40) for _ in range(i + 1)] + [None])
    shown = projection.top_classes(titles)
    assert shown.nunique() == 20
    assert "c39" in set(shown)
    assert (shown[titles == "c05"] == projection.OTHER).all()
    assert pd.isna(shown.iloc[-1])
    few = pd.Series(["a", "b"])
    assert projection.top_classes(few).equals(few)


def test_the_map_draws_each_group_and_the_density_has_all_points():
    table = pd.DataFrame(
        {"x": [0.0, 1, 2], "y": [0.0, 1, 2], "sample_id": list("abc"), "hover": ["<i>", "b", "c"], "shown": ["p", "q", None]}
    )
    uri, extent = projection.density_image(table[["x", "y"]].to_numpy(), side=8)
    figure = projection.scatter(table, "shown", table.head(1), (uri, extent))
    assert [t.name for t in figure.data] == ["no label", "p", "q", "this image"]
    tags = projection.scatter(table.assign(shown="<b>x</b>"), "shown", table.head(0))
    assert tags.data[0].name == "&lt;b&gt;x&lt;/b&gt;"
    assert figure.data[1].customdata[0].tolist() == ["a", "&lt;i&gt;"]
    assert extent == (0, 0, 2, 2)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert np.argwhere(picture[..., 3] > 0).tolist() == [[0, 7], [3, 4], [7, 0]]  # y points up
    numbers = projection.scatter(table.assign(shown=[0.1, np.nan, 0.3]), "shown", table.head(0))
    assert list(numbers.data[0].x) == [0, 2]


def test_cases_of_two_probes_by_hand():
    first = pd.Series([True, True, False, False, None, True])
    second = pd.Series([True, False, True, False, True, None])
    expected = ["both right", "only a right", "only <b> right", "both wrong", "not judged", "not judged"]
    said = compare.cases(first, second, ("a", "<b>"))
    assert said.tolist() == expected
    table = pd.DataFrame({"x": range(6), "y": range(6), "sample_id": list("uvwxyz"), "hover": list("uvwxyz"), "case": said})
    figure = compare.matched(table, ("a", "<b>"))
    drawn = {t.name: t.marker.color for t in figure.data}
    assert set(drawn) == {"both right", "only a right", "only &lt;b&gt; right", "both wrong", "not judged"}
    assert len({drawn["only a right"], drawn["only &lt;b&gt; right"], drawn["both wrong"], drawn["both right"]}) == 4
    assert figure.layout.yaxis.title.text == "Q-Score by &lt;b&gt;"


def test_the_square_of_pairs_shows_each_number_where_it_belongs():
    table = pd.DataFrame([[np.nan, 0.2], [0.4, np.nan]], columns=["one", "two"], index=["one", "two"])
    (square,) = compare.consistency(table).data
    assert (list(square.x), list(square.y)) == (["one", "two"], ["one", "two"])
    assert square.z[1][0] == 0.4


def test_lines_of_a_compression_curve_by_hand():
    table = pd.DataFrame(
        {
            "kind": ["full", "random", "random", "pca"],
            "reduction": [0, 0.5, 0.5, 0.5],
            "n_features": [8, 4, 4, 4],
            "top1": [0.9, 0.7, 0.8, 0.85],
            "low": [0.88, 0.6, 0.7, 0.8],
            "high": [0.92, 0.75, 0.86, 0.9],
        }
    )
    found = compression.lines(table).set_index(["kind", "reduction"])
    assert found.loc[("random", 0.5), ["n_features", "top1", "low", "high"]].tolist() == pytest.approx([4, 0.75, 0.7, 0.8])
    assert found.loc[("pca", 0.5), ["n_features", "top1", "low", "high"]].tolist() == pytest.approx([4, 0.85, 0.8, 0.9])
    assert found.loc[("pca", 0.0), ["n_features", "top1", "low", "high"]].tolist() == pytest.approx([8, 0.9, 0.88, 0.92])
    assert found.loc[("random", 0.0), ["low", "high"]].tolist() == [0.9, 0.9]
    figure = compression.curves(found.reset_index(), ["random", "pca"])
    random, pca = (next(t for t in figure.data if t.name == name) for name in ("random", "principal components"))
    assert (list(random.x), list(pca.y)) == ([0, 50], pytest.approx([90, 85]))
    assert list(random.customdata[1])[:3] == pytest.approx([4, 70, 80])
    for kind, y in (("pca", [90, 85]), ("random", [90, 75])):
        both = compression.encoders({"<b>": found.reset_index(), "two": found.reset_index()}, kind)
        assert [t.name for t in both.data] == ["&lt;b&gt;", "two"]
        assert all((list(t.x), list(t.y)) == ([0, 50], pytest.approx(y)) for t in both.data)


def test_a_compression_curve_with_its_bands_and_subsets():
    table = pd.DataFrame(
        {
            "kind": ["full", "discriminative", "discriminative", "random", "random", "pca"],
            "reduction": [0.0, 0.55, 0.9, 0.55, 0.55, 0.55],
            "n_features": [100, 45, 10, 45, 45, 45],
            "top1": [0.8, 0.7, 0.5, 0.6, 0.64, 0.79],
            "seed": pd.array([None, None, None, 0, 1, None], dtype="Int64"),
            "low": [0.75, 0.65, 0.45, 0.55, 0.59, 0.74],
            "high": [0.85, 0.75, 0.55, 0.65, 0.69, 0.84],
        }
    )
    found = compression.lines(table)
    figure = compression.curves(found, ["discriminative", "random", "pca"])
    lines = {trace.name: trace for trace in figure.data if trace.name}
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [np.round([b.x, b.y], 6).tolist() for b in bands] == [
        [[0, 55, 90, 90, 55, 0], [85, 75, 55, 45, 65, 75]],
        [[0, 55, 55, 0], [80, 64, 60, 80]],  # of seeds the lowest and the highest
    ]
    assert [np.round(lines[k].y, 6).tolist() for k in ("random", "principal components")] == [[80, 62], [80, 79]]
    assert [row[3] for row in lines["discriminative"].customdata] == [
        "all",
        "percentiles 50 to 95",
        "percentiles 82 to 92",
    ]
    assert [compression.which(kind, 0.25) for kind in ("lower tail", "upper tail")] == [
        "percentiles 0 to 75",
        "percentiles 25 to 100",
    ]
    assert figure.layout.shapes[0].y0 == 80


def test_differences_are_marked_with_their_own_intervals():
    table = pd.DataFrame(
        [
            {"figure": "top1", "arm": "both", "mean": 0.01, "low": -0.02, "high": 0.05, "of_seeds": [0.0, 0.02]},
            {"figure": "q_all", "arm": "both", "mean": 0.3, "low": 0.1, "high": 0.4, "of_seeds": [0.3]},
            {"figure": "top1", "arm": "lasso", "mean": -0.03, "low": -0.04, "high": -0.01, "of_seeds": [-0.03]},
        ]
    )
    marks, seeds = finetune.differences(table, "top1").data[::2], finetune.differences(table, "top1").data[1::2]
    assert [(m.y[0], m.x[0]) for m in marks] == [("both", 1), ("lasso", -3)]
    assert [(m.error_x.array[0], m.error_x.arrayminus[0]) for m in marks] == [pytest.approx((4, 3)), pytest.approx((2, 1))]
    assert [list(s.x) for s in seeds] == [[0, 2], [-3]]
    assert finetune.differences(table, "q_all").data[0].x[0] == 0.3  # no points


def test_curves_of_a_fine_tuning_by_hand():
    curves = pd.DataFrame(
        {
            "arm": ["control", "control", "both", "both"],
            "seed": [0, 0, 0, 0],
            "epoch": [0, 1, 0, 1],
            "right": [0.1, 0.2, 0.3, 0.4],
            "wrong": [0.0, 0.6, np.nan, 0.8],
        }
    )
    figure = finetune.curve(curves, {"right": "right", "wrong": "wrong"}, "mean Q", 100)
    assert {t.name: (list(t.x), list(t.y), t.line.dash) for t in figure.data} == {
        "control right": ([0, 1], [10, 20], "solid"),
        "control wrong": ([0, 1], [0, 60], "dot"),
        "both right": ([0, 1], [30, 40], "solid"),
        "both wrong": ([1], [80], "dot"),
    }
    logarithmic = finetune.curve(curves, {"wrong": ""}, "mean Q", log=True)
    assert [list(t.x) for t in logarithmic.data] == [[1], [1]]


def test_panels_stand_where_their_titles_say():
    rows = [
        {"arm": arm, "outcome": outcome, "label": label, "feature": feature, "mean": value}
        for arm, outcome, value in (("base", "correct", 1), ("both", "correct", 2), ("base", "wrong", 3), ("both", "wrong", 4))
        for label in (0, 1)
        for feature in (7, 9)
    ]
    figure = finetune.panels(pd.DataFrame(rows), {0: "cat", 1: "dog"}, ("before", "after"))
    shown = {(t.yaxis, t.xaxis): float(np.mean(t.z)) for t in figure.data}
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:4] == ["before: right", "after: right", "before: wrong", "after: wrong"]
    assert list(shown.values()) == [1, 2, 3, 4]
    assert all(list(t.y) == ["cat", "dog"] and list(t.x) == ["7", "9"] for t in figure.data)
