"""Heatmaps against masks, by hand and against slow loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from sslviz import mask_iou
from sslviz.analysis.looks import shrunk
from sslviz.analysis.masks import centre_blob, mass_inside, pointing_game, threshold_curve
from sslviz.data.masks import load_masks
from sslviz.errors import InputError
from sslviz.heatmaps import finish
from tests import reference
from tests.inputs import demo_part

HEAT = np.array([[[1.0, 0.6], [0.4, 0.0]]], np.float32)
MASK = np.array([[[1, 0], [1, 0]]], bool)


def test_a_case_by_hand():  # areas {a, b} and {a, c} of [[a, b], [c, d]]
    assert_allclose(mask_iou(HEAT, MASK), [1.0 / (1.0 + 0.6 + 0.4)])  # without c's heat: .625; with mask's own values: .385
    assert_allclose(mask_iou(HEAT, MASK, weighting="area"), [1 / 3])
    assert_allclose(mask_iou(HEAT, MASK, threshold=0.7), [1.0 / 1.4])
    assert_allclose(mask_iou(HEAT, MASK, threshold=0.4), [1.4 / 2.0])  # a value at its threshold is in
    assert_allclose(mass_inside(HEAT, MASK), [0.7])
    assert_allclose(pointing_game(HEAT, MASK), [1])
    assert_allclose(pointing_game(HEAT, ~MASK), [0])
    assert_allclose(pointing_game(np.ones_like(HEAT), MASK), [0.5])


@pytest.mark.parametrize("mask", [MASK, MASK * np.float32(1), MASK * np.uint8(255), MASK * np.uint8(128)])
def test_masks_of_every_type(mask):
    assert_allclose(mask_iou(HEAT, mask), [0.5])
    found = mask_iou(torch.from_numpy(HEAT), torch.from_numpy(mask))
    assert isinstance(found, torch.Tensor)
    assert_allclose(found.numpy(), [0.5])


def test_the_masks_threshold():
    mask = MASK * np.uint8(127)  # 127 / 255 is just below a half
    assert_allclose(mask_iou(HEAT, mask), [0])
    assert_allclose(mask_iou(HEAT, mask, mask_threshold=0.4), [0.5])


def test_nothing_to_show():
    zero, real, empty, full = np.zeros_like(HEAT), MASK, np.zeros_like(MASK), np.ones_like(MASK)
    with np.errstate(all="raise"):
        assert_allclose(mask_iou(zero, real), [0])
        assert_allclose(mask_iou(zero, empty), [np.nan])
        assert_allclose(mask_iou(HEAT, empty), [0])
        assert_allclose(mask_iou(HEAT, full), [0.8])
        assert_allclose(mask_iou(np.full_like(HEAT, 0.7), full), [1])
        assert_allclose([*pointing_game(zero, real), *pointing_game(HEAT, empty)], [0, np.nan])
        assert_allclose([*mass_inside(zero, real), *mass_inside(HEAT, empty)], [0, np.nan])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heatmap": HEAT[0]}, "expected both"),
        ({"heatmap": -HEAT}, "outside 0..1"),
        ({"heatmap": HEAT * np.nan}, "not finite"),
        ({"heatmap": HEAT.astype(int)}, "expected floats"),
        ({"mask": MASK.astype(np.int64)}, "expected bool, uint8"),
        ({"mask": MASK * np.float32(2)}, "outside 0..1"),
        ({"mask": np.ones((1, 3, 2))}, "expected both"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"mask_threshold": 1.5}, "mask_threshold is 1.5"),
        ({"weighting": "pixels"}, 'weighting is "pixels"'),
    ],
)
def test_what_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        mask_iou(**{"heatmap": HEAT, "mask": MASK, **change})


values = arrays(np.float32, (3, 4, 5), elements=st.sampled_from([0, 0.25, 0.5, 0.6, 1]))


@settings(max_examples=80, deadline=None)
@given(heat=values, mask=values, threshold=st.sampled_from([0.25, 0.5, 0.9]), weighting=st.sampled_from(["heatmap", "area"]))
def test_it_is_the_papers_sum(heat, mask, threshold, weighting):
    wanted = [reference.mask_iou(h, m, threshold, 0.5, weighting) for h, m in zip(heat.tolist(), mask.tolist(), strict=True)]
    assert_allclose(mask_iou(heat, mask, threshold, weighting=weighting), wanted, rtol=1e-6)


def test_the_curve_is_each_threshold():
    grid = np.array([0.3, 0.5, 0.7])
    assert_allclose(threshold_curve(HEAT, MASK, grid), [[1.4 / 2, 0.5, 1 / 1.4]], rtol=1e-6)


def test_the_blob_is_a_gaussian_in_the_middle():
    blob = centre_blob(41, 41)
    assert blob.max() == blob[20, 20] == 1
    assert_allclose(blob[20, 10], np.exp(-0.5 * (10 / (41 / 4)) ** 2), rtol=1e-5)
    assert_allclose(blob, blob.T)
    assert_allclose(blob, blob[::-1])


def test_how_well_a_map_of_some_size_can_do(workspace):  # measured on the demo's prototype: 2x2 .28, 4x4 .63, 8x8 .80
    dataset = demo_part(workspace, 10, 200)
    masks = load_masks(dataset)
    core = np.stack([masks.read(i, (96, 96), 64, 64)["core"] for i in masks.samples() if i.startswith("test")])
    found = {}
    for side in (2, 4, 8):
        best = finish(torch.from_numpy(shrunk(core, (side, side))), (64, 64)).numpy()
        found[side] = np.nanmean(mask_iou(best, core, weighting="area"))
    assert_allclose([found[2], found[4], found[8]], [0.28, 0.63, 0.80], atol=0.06)


def test_a_mask_of_zeros_and_ones_may_be_bytes():
    heat = np.random.default_rng(0).random((2, 4, 4)).astype(np.float32)
    marked = np.zeros((2, 4, 4), np.uint8)
    marked[:, :2] = 1
    for measure in (mask_iou, pointing_game, mass_inside):
        assert_allclose(measure(heat, marked), measure(heat, marked.astype(bool)))
        assert_allclose(measure(heat, marked * 255), measure(heat, marked.astype(bool)))


def test_thresholds_are_compared_as_numbers_not_as_types():
    heat = np.full((1, 2, 2), 0.7, np.float32)
    marked = np.ones((1, 2, 2), bool)
    assert (
        mask_iou(heat, marked, 0.7) == mask_iou(heat, marked, np.float64(0.7)) == threshold_curve(heat, marked, np.array([0.7]))
    )


def test_wrong_thresholds_and_nothing_at_all_are_said():
    heat = np.ones((1, 2, 2), np.float32)
    for measure in (pointing_game, mass_inside):
        for wrong in (0, 1.5, float("nan"), "0.5"):
            with pytest.raises(InputError, match="mask_threshold is"):
                measure(heat, heat, wrong)
    with pytest.raises(InputError, match="no heatmap"):
        mask_iou(heat[:0], heat[:0])
