"""Before and after: figures by hand, differences against an independent computation, pairs that stay pairs."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from sslviz.analysis.mending import FIGURES, class_means, differences, figures, mended_and_broken, verdict

FOUR = pd.DataFrame(
    {
        "correct": [True, True, False, False],
        "q": [0.4, 0.2, 0.3, 0.0],
        "q_fixed": [0.5, 0.3, 0.1, 0.1],
        "empty": [False, False, False, True],
        "correct_40": [True, False, False, False],
        "core": [0.6, np.nan, 0.2, 0.4],
    },
    index=list("abcd"),
)


def test_figures_by_hand():
    found = figures(FOUR)
    assert set(found) == set(FIGURES)
    assert found["top1"] == 0.5
    assert found["auroc"] == pytest.approx(0.75)  # of four pairs only (b, c) is the wrong way round
    assert found["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    assert (found["q_correct"], found["q_wrong"]) == pytest.approx((0.3, 0.15))
    assert (found["q_correct_fixed"], found["q_wrong_fixed"]) == pytest.approx((0.4, 0.1))
    assert (found["q_all"], found["q_all_fixed"]) == pytest.approx((0.225, 0.25))
    assert (found["empty_share"], found["top1_40"]) == (0.25, 0.25)
    assert (found["core_correct"], found["core_wrong"]) == pytest.approx((0.6, 0.3))  # the unknown one does not count
    assert np.isnan(found["spurious_correct"])


def test_what_needs_labels_is_unknown_without_them():
    found = figures(FOUR.drop(columns=["correct", "correct_40"]))
    assert {name for name, value in found.items() if not np.isnan(value)} == {"q_all", "q_all_fixed", "empty_share"}


def test_mended_and_broken_by_hand():
    before = pd.Series([True, False, False, True], index=list("abcd"))
    after = pd.Series([True, False, True, True, True], index=list("badcx"))  # another order, one image more
    assert mended_and_broken(before, after) == (2, 1)  # b and c are mended, a is broken, d stays right
    assert mended_and_broken(before, before) == (0, 0)


def arm(rng, n, shift):
    correct = rng.random(n) < 0.6 + shift
    q = rng.normal(size=n) + 0.5 * correct
    return pd.DataFrame({"correct": correct, "q": q, "q_fixed": q, "empty": q < -1}, index=[f"i{k}" for k in range(n)])


def arms(n=300):
    rng = np.random.default_rng(1)
    return {"base": [arm(rng, n, 0)], "control": [arm(rng, n, 0), arm(rng, n, 0)], "both": [arm(rng, n, 0.1), arm(rng, n, 0.2)]}


def test_what_cancels_is_zero_and_neither_gain_nor_loss():
    def seed(q):
        return pd.DataFrame({"q": q}, index=range(20))

    found = differences({"control": [seed(0.0)], "both": [seed(0.1), seed(0.2), seed(-0.3)]}, ["control"], n_bootstrap=50)
    (row,) = found[found["figure"] == "q_all"].to_dict("records")
    assert (row["mean"], row["low"], row["high"]) == (0, 0, 0)  # 0.1 + 0.2 - 0.3 is 6e-17 in floating point


def test_draws_made_in_parts_are_those_made_at_once(monkeypatch):
    import sslviz.analysis.mending as module

    at_once = differences(arms(60), ["base", "control"], n_bootstrap=50)
    monkeypatch.setattr(module, "_CELLS", 60 * 7)
    pd.testing.assert_frame_equal(differences(arms(60), ["base", "control"], n_bootstrap=50), at_once)


def test_differences_are_those_of_scikit_learns_figures_seed_by_seed():
    given = arms()
    found = differences(given, ["base", "control"], n_bootstrap=50).set_index(["arm", "against", "figure"])
    for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        of = {a: [metric(t["correct"], t["q"]) for t in tables] for a, tables in given.items()}
        expected = [b - c for b, c in zip(of["both"], of["control"], strict=True)]  # seed 0 with seed 0
        row = found.loc[("both", "control", name)]
        np.testing.assert_allclose(row["of_seeds"], expected)
        assert row["mean"] == pytest.approx(np.mean(expected))
        np.testing.assert_allclose(found.loc[("both", "base", name), "of_seeds"], [b - of["base"][0] for b in of["both"]])


def test_intervals_are_the_bootstraps_over_images_drawn_alike():
    """The same percentiles by a loop that draws rows; and the interval of a pair that hardly differs is narrow."""
    given = arms(200)
    found = differences(given, ["control"], n_bootstrap=2000).set_index(["arm", "figure"])
    rng = np.random.default_rng(9)
    gaps = []
    for _ in range(2000):
        rows = rng.integers(0, 200, 200)
        mean = {a: np.mean([t["correct"].to_numpy()[rows].mean() for t in given[a]]) for a in ("both", "control")}
        gaps.append(mean["both"] - mean["control"])
    low, high = np.percentile(gaps, [2.5, 97.5])
    assert found.loc[("both", "top1"), "low"] == pytest.approx(low, abs=0.012)
    assert found.loc[("both", "top1"), "high"] == pytest.approx(high, abs=0.012)
    assert found.loc[("both", "top1"), "high"] - found.loc[("both", "top1"), "low"] == pytest.approx(high - low, rel=0.08)
    twin = given["control"][0].copy()
    twin.iloc[0, 0] = ~twin.iloc[0, 0]
    near = differences({"control": [given["control"][0]], "both": [twin]}, ["control"]).set_index("figure").loc["top1"]
    assert near["high"] - near["low"] < 0.03  # unpaired it would be 0.13


def test_images_in_another_order_are_refused():
    given = arms(20)
    given["both"][1] = given["both"][1].iloc[::-1]
    with pytest.raises(ValueError, match="the same images in the same order"):
        differences(given, ["base"])


def test_no_image_at_all_has_no_difference():
    empty = FOUR.iloc[:0]
    assert differences({"base": [empty], "both": [empty]}, ["base"]).empty


def test_few_draws_make_no_interval():
    arms = {"base": [FOUR], "both": [FOUR.assign(correct=True)]}
    for draws, known in ((10, False), (100, True)):
        found = differences(arms, ["base"], n_bootstrap=draws).set_index("figure").loc["top1", ["mean", "low", "high"]]
        assert found.notna().tolist() == [True, known, known]


def test_class_means_by_hand():
    H = np.array([[1.0, 2, 3], [3, 4, 5], [5, 6, 7]])
    found = class_means(H, np.array([0, 0, 1]), np.array([True, True, False]), np.array([0, 2]))
    rows = [tuple(row) for row in found.itertuples(index=False)]
    assert rows == [("correct", 0, 0, 2.0, 2), ("correct", 0, 2, 4.0, 2), ("wrong", 1, 0, 5.0, 1), ("wrong", 1, 2, 7.0, 1)]


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.01, 0.03, "gains"), (-0.03, -0.01, "loses"), (-0.01, 0.03, "No gain over the control")]
)
def test_the_verdict_is_what_the_interval_allows(low, high, words):
    row = {"arm": "both", "against": "control", "figure": "top1", "mean": (low + high) / 2, "low": low, "high": high}
    row["of_seeds"] = [0.02, -0.01, 0.03]
    assert words in verdict(pd.DataFrame([row]))
    assert "2 of 3 seeds" in verdict(pd.DataFrame([row]))
    assert "1 of 3 seeds" in verdict(pd.DataFrame([{**row, "of_seeds": [0.02, 0.0, -0.01]}]))  # nothing gained is not positive
    assert verdict(pd.DataFrame([{**row, "against": "base"}])) == ""
    of_q = {**row, "figure": "auroc", "low": -1.0, "high": 1.0, "mean": 0.0}
    others = [{**row, "arm": arm} for arm in ("base", "lambda1")]
    assert verdict(pd.DataFrame([of_q, *others, row])) == verdict(pd.DataFrame([row]))  # one sentence, of top-1
    alone = verdict(pd.DataFrame(others))
    assert alone.count("compared with the control") == 1
    assert ("Arm lambda1" in alone) or ("No gain of arm lambda1" in alone)
    control = {**row, "arm": "control", "against": "base"}
    assert verdict(pd.DataFrame([row, control])).startswith(verdict(pd.DataFrame([row])))
    assert ("Training on alone" in verdict(pd.DataFrame([row, control]))) == (words == "loses")
    assert ("top-1 -2.0 points (95 % over images -3.0 to -1.0)" in verdict(pd.DataFrame([control]))) == (words == "loses")
