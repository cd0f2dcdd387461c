"""Pictures that are laid over pictures, against scipy's distances and by hand."""

import os

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.ndimage import distance_transform_cdt

from sslviz.data import thumbs
from sslviz.ui.overlays import OUTLINES, blend, outline_rgba


@pytest.mark.parametrize("kind", ["core", "spurious"])
def test_an_outline_is_what_is_marked_within_two_steps_of_what_is_not(kind):
    mask = np.zeros((16, 16), np.uint8)
    mask[4:11, 3:12], mask[0:3, 0:5], mask[14, 14] = 255, 128, 127  # inside, at the border, and below one half
    big = np.kron(mask >= 128, np.ones((4, 4), bool))
    drawn = outline_rgba(mask, kind, 64)
    steps = distance_transform_cdt(big, metric="taxicab")
    assert_array_equal(drawn[..., 3] == 255, big & (steps <= 2))
    assert set(np.unique(drawn[..., 3])) == {0, 255}
    assert_array_equal(drawn[drawn[..., 3] == 255][0, :3], OUTLINES[kind])
    assert drawn[24, 24, 3] == 0  # deep inside


def test_a_blend_by_hand():
    pixels = np.full((1, 2, 3), 100, np.uint8)
    cold, hot = blend(pixels, np.array([[0.0, 1.0]]), 0.5)[0]
    assert cold.tolist() == [100, 100, 100]
    full = blend(pixels, np.array([[0.0, 1.0]]), 1.0)[0, 1]
    assert_array_equal(hot, np.round((100 + full.astype(float)) / 2))


def test_of_several_thumbnails_of_a_picture_the_newest_counts(tmp_path):
    for k, content in enumerate((b"old", b"newer")):
        thumbs.write_pack(tmp_path, [("a.png", f"digest{k}", content)])
        for pack in (tmp_path / "thumbs").glob("*.parquet"):
            if thumbs.read_table(pack)["sha256"].item() == f"digest{k}":
                os.utime(pack, (1000 + k, 1000 + k))
    (found,) = thumbs.index(tmp_path).itertuples()
    assert found.sha256 == "digest1"
    assert thumbs.read_thumb(tmp_path, found.pack, found.offset, found.size) == b"newer"
