"""What interpret sums up, by hand."""

import numpy as np
import pandas as pd
import pytest

from sslviz.analysis import looks
from sslviz.analysis.masks import METRICS


def table(correct, core, spurious):
    rows = pd.DataFrame({"sample_id": [str(i) for i in range(len(core))], "correct": pd.array(correct, "boolean")})
    for metric in METRICS:
        for who in looks.WHO:
            rows[f"core_{metric}_{who}"] = core
            rows[f"spurious_{metric}_{who}"] = spurious
    return rows


def test_groups_and_differences():
    rows = table([True, True, False, None], [0.8, 0.6, 0.2, np.nan], [0.1, 0.3, 0.3, 0.5])
    found = {(g["kind"], g["group"]): g for g in looks.groups(rows, 0) if g["metric"] == "iou" and g["who"] == "map"}
    assert {k: (round(g["mean"], 6), g["n"]) for k, g in found.items()} == {
        ("core", "all"): (0.533333, 3),
        ("spurious", "all"): (0.3, 4),
        ("core", "correct"): (0.7, 2),
        ("spurious", "correct"): (0.2, 2),
        ("core", "wrong"): (0.2, 1),
        ("spurious", "wrong"): (0.3, 1),
        ("core", "both masks"): (0.533333, 3),
        ("spurious", "both masks"): (0.233333, 3),
    }
    assert all(g["interval"] is None for g in found.values())  # of so few images it would be far too narrow
    gaps = {(d["what"], d["of"]): d["mean"] for d in looks.differences(rows, 0)}
    assert gaps["core - spurious", "all"] == pytest.approx((0.7 + 0.3 - 0.1) / 3)
    assert gaps["correct - wrong", "core"] == pytest.approx(0.5)
    assert gaps["correct - wrong", "spurious"] == pytest.approx(-0.1)
    assert gaps["core - blob", "all"] == pytest.approx(0)  # in this table all overlap alike


def test_what_larger_objects_give_a_blob_too_is_taken_off():
    """Right images with larger objects: both gain .3, and the heatmaps of right images .1 beyond it."""
    rows = table([True, True, False, False] * 5, [0.8, 0.6, 0.4, 0.2] * 5, [0.1] * 20)
    rows["core_iou_blob"] = [0.6, 0.4, 0.2, 0.2] * 5
    gaps = {(d["what"], d["of"]): d for d in looks.differences(rows, 0)}
    assert gaps["correct - wrong", "core"]["mean"] == pytest.approx(0.7 - 0.3)
    beyond = gaps["correct - wrong, beyond the blob", "core"]
    assert beyond["mean"] == pytest.approx(0.2 - 0.1)
    low, high = beyond["interval"]  # .2 less ten of .2 and 0: their mean has a standard error of .1 / sqrt(10)
    assert (0.1 - low, high - 0.1) == pytest.approx((1.96 * 0.1 / 10**0.5,) * 2, rel=0.15)
    few = {(d["what"], d["of"]): d["interval"] for d in looks.differences(rows.head(16), 0)}
    assert few["correct - wrong", "core"] is None  # eight of each
    assert few["core - blob", "all"] is not None
    assert gaps["core - blob", "all"]["mean"] == pytest.approx((0.2 + 0.2 + 0.2 + 0) / 4)


def test_without_answers_there_is_one_group():
    rows = table([None, None], [0.5, 0.7], [0.1, 0.1])
    assert {g["group"] for g in looks.groups(rows, 0)} == {"all"}
    assert [d["what"] for d in looks.differences(rows, 0)] == ["core - spurious", "core - blob"]


def test_an_interval_holds_the_mean_of_a_fair_coin_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for _ in range(40):
        values = rng.integers(0, 2, 100).astype(float)
        rows = table([None] * 100, values, values)
        (g,) = looks.groups(rows, 0)[:1]
        inside += g["interval"][0] <= 0.5 <= g["interval"][1]
    assert 0.8 <= inside / 40 <= 0.99


def test_an_interval_is_as_wide_as_the_normal_distribution_says():
    values = np.random.default_rng(1).normal(size=2000)
    (g,) = looks.groups(table([None] * 2000, values, values), 0)[:1]
    assert g["interval"][1] - g["interval"][0] == pytest.approx(2 * 1.96 * values.std() / 2000**0.5, rel=0.08)


def test_heat_on_neither_mask_is_of_images_with_both_and_with_heat():
    rows = pd.DataFrame(
        {
            "core_mass_map": [0.5, 0.2, 0.9, 0.0, 0.8],
            "spurious_mass_map": [0.1, 0.2, np.nan, 0.0, 0.4],  # the last two masks overlap
            "zero": [False, False, False, True, False],
        }
    )
    assert looks.neither(rows) == pytest.approx((0.4 + 0.6 + 0) / 3)
    assert looks.neither(rows.iloc[2:4]) is None


def test_the_shuffled_map_is_another_images_whole():
    """Each image gets the map before it in its batch, the first the last one's; alone it gets none."""
    rng = np.random.default_rng(0)
    raw = rng.random((3, 4, 4)).astype(np.float32)
    masks = [{"core": (rng.random((4, 4)) < 0.4).astype(np.uint8) * 255} for _ in range(3)]

    def finished(maps):
        return maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-9)

    found, _ = looks.overlaps(raw, masks, finished, 0.5, 0.5)
    other = raw[[2, 0, 1]] / raw[[2, 0, 1]].max((1, 2), keepdims=True)
    mass = [float(h[m["core"] > 0].sum() / h.sum()) for h, m in zip(other, masks, strict=True)]
    np.testing.assert_allclose(found["core_mass_shuffled"], mass, rtol=1e-5)
    alone, _ = looks.overlaps(raw[:1], masks[:1], finished, 0.5, 0.5)
    assert np.isnan(alone["core_mass_shuffled"]).all()
    assert not np.isnan(alone["core_mass_map"]).any()


def test_a_word_needs_three_images_and_an_overlap():
    maps, fires = np.zeros((1, 1, 2, 2), np.float32), np.ones((1, 1), bool)
    maps[0, 0, 0, 0] = 1
    on, off = np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)
    on[0, 0], off[1, 1] = 255, 255
    words = {"a/1": ["beak"], "a/2": ["sky"]}
    for part, n, name in ((on, 2, ""), (on, 3, "beak"), (off, 5, "")):
        found = looks.FeatureOverlaps(1, 0.5)
        for _ in range(n):
            found.update(maps, fires, [{"core": on}], [{"a/1": part}])
        assert found.table(words)["name"].tolist() == [name], (n, name)


def test_the_curve_by_group():
    rows = table([True, False], [0, 0], [0, 0])
    curves = np.zeros((2, 2, 9, 3))
    curves[:, :, 4, 1] = [[0.9, 0.2], [0.5, np.nan]]
    found = looks.curve(rows, curves).query("threshold == 0.5 and mask_threshold == 0.5").set_index(["kind", "group"])["miou"]
    assert found["core", "all"] == pytest.approx(0.7)
    assert found["core", "wrong"] == 0.5
    assert found["spurious", "all"] == 0.2
    assert pd.isna(found["spurious", "wrong"])


def test_a_features_map_inside_masks_and_named_parts():
    maps = np.zeros((3, 2, 2, 2), np.float32)
    maps[0, 0] = [[3, 1], [0, 0]]  # three quarters at the top left
    maps[1, 0] = [[1, -5], [1, 0]]  # half; negatives do not count
    maps[2, 1] = [[0, 0], [0, 4]]
    fires = np.array([[True, False], [True, False], [False, True]])
    core = np.zeros((3, 4, 4), np.uint8)
    core[:, :2, :2] = 255
    found = looks.FeatureOverlaps(2, 0.5)
    wing, tail = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    wing[:2, :2], tail[2:, :2] = 255, 255
    for _ in range(2):  # a word needs three images behind it
        masks = [{"core": c, "spurious": 255 - c} for c in core]
        found.update(maps, fires, masks, [{"n1/3": wing, "n1/7": tail}, {"n1/3": wing}, {}])
    rows = found.table({"n1/3": ["red wing", "Red wing", "beak"], "n1/7": ["tail"]}).set_index("feature")
    assert rows.loc[0, ["n", "core", "spurious", "core_area"]].tolist() == pytest.approx([4, 0.625, 0.375, 0.25])
    assert rows.loc[1, ["n", "core", "spurious"]].tolist() == [2, 0, 1]
    assert rows.loc[0, ["name", "support"]].tolist() == ["red wing", 4]
    assert rows.loc[0, "overlap"] == pytest.approx(0.625)
    assert rows.loc[1, ["name", "support"]].tolist() == ["", 0]
