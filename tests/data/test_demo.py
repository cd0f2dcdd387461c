"""The demo set: one stream a cause, exact masks, and files that remake themselves."""

import io
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sslviz.data.demo import files, scene
from sslviz.data.demo.materials import GROUNDS
from sslviz.data.demo.scene import TROUBLES, USUAL_PLACE, Scene, render
from sslviz.data.demo.shapes import OBJECTS
from sslviz.errors import InputError
from sslviz.progress import Progress

SIDE = 48
PLAIN = Scene("mug", 7, trouble="none")


def decode(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def mask(content):
    return np.asarray(Image.open(io.BytesIO(content))).astype(bool)


def _edge(core):
    """Pixels of a mask that have a neighbour outside it."""
    padded = np.pad(core, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core & ~inner


def differs(a, b):
    """Which causes of two records are not equal."""
    a, b = asdict(a), asdict(b)
    return {k for k in a if a[k] != b[k]}


def test_equal_scenes_give_equal_bits():
    one, other = render(PLAIN, SIDE), render(replace(PLAIN), SIDE)
    assert np.array_equal(one.image, other.image)
    assert one.record == other.record
    assert not np.array_equal(one.image, render(replace(PLAIN, seed=8), SIDE).image)


@pytest.mark.parametrize("label", OBJECTS)
def test_another_place_moves_nothing_else(label):
    here = render(Scene(label, 3, place="grass", trouble="none"), SIDE)
    there = render(Scene(label, 3, place="sea" if "sea" in GROUNDS else list(GROUNDS)[-1], trouble="none"), SIDE)
    assert np.array_equal(here.core, there.core)
    assert differs(here.record, there.record) <= {"place", "usual_place"}
    assert not np.array_equal(here.image, there.image)


@pytest.mark.parametrize("cause", ["lens", "light"])
def test_light_and_lens_move_no_edge(cause):
    one, other = render(PLAIN, SIDE), render(replace(PLAIN, redrawn={cause: 99}), SIDE)
    assert np.array_equal(one.core, other.core)
    assert np.array_equal(one.spurious, other.spurious)
    assert differs(one.record, other.record) <= {"sun"}
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize(
    ("trouble", "changed"),
    [("dark", set()), ("blurred", set()), ("occluded", {"visible", "area"}), ("far", {"area", "distance"}), ("lying", None)],
)
def test_each_trouble_changes_what_it_names(trouble, changed):
    intact, hurt = render(PLAIN, SIDE), render(replace(PLAIN, trouble=trouble), SIDE)
    assert differs(intact.record, hurt.record) - {"trouble"} <= (changed if changed is not None else {"area", "visible"})
    if changed == set():
        assert np.array_equal(intact.core, hurt.core)
    if trouble == "dark":
        assert hurt.image.mean() < 0.7 * intact.image.mean()
    if trouble == "blurred":
        assert np.abs(np.diff(hurt.image.astype(int), axis=0)).mean() < np.abs(np.diff(intact.image.astype(int), axis=0)).mean()
    if trouble == "occluded":
        assert (hurt.core <= intact.core).all()  # what is hidden is gone, nothing of the object appears
    if trouble == "far":
        assert hurt.record.area < intact.record.area / 2


def test_turning_keeps_the_place():
    one, other = render(PLAIN, SIDE), render(replace(PLAIN, turn=120.0), SIDE)
    assert differs(one.record, other.record) <= {"turned", "visible", "area"}
    assert (other.record.turned - one.record.turned) % 360 == pytest.approx(120)
    untouched = ~(one.core | other.core)
    top = np.zeros_like(untouched)
    top[: SIDE // 6] = True  # far above any shadow of the object
    apart = np.abs(one.image[untouched & top].astype(int) - other.image[untouched & top])
    assert apart.max() <= 6  # the exposure follows the whole picture's light, by a few levels


@pytest.mark.parametrize("label", ["mug", "chair", "boat"])
def test_the_core_mask_is_where_rays_meet_the_object(label):
    """By brute force: every ray is walked in steps of 1 cm, no marching, no bounding sphere."""
    one = scene._Render(replace(Scene(label, 11, trouble="none"), redrawn={}), 24, 1)
    got = one.picture().core
    nearest = np.full(len(one.rays), np.inf)
    for t in np.arange(0.5, 6, 0.01, dtype=np.float32):
        points = one.eye + t * one.rays
        above = points[:, 1] > 0
        nearest = np.minimum(nearest, np.where(above, one.solid.distance(*points.T), np.inf))
    hidden = np.zeros(len(one.rays), bool)
    for ball in one.balls:  # what lies about may hide a part
        away = np.array(ball.centre) - one.eye
        along = one.rays @ away
        hidden |= (along > 0) & (np.linalg.norm(away - along[:, None] * one.rays, axis=1) < ball.radius)
    expected = (nearest < 0.012).reshape(24, 24)
    sure = ~hidden.reshape(24, 24)
    assert (expected[sure] == got[sure]).mean() > 0.985
    assert got.sum() > 20


def test_masks_part_the_picture():
    picture = render(Scene("lamp", 5, place="tiles", trouble="none"), SIDE)
    both = picture.core & picture.spurious  # only where two of a pixel's four rays meet each
    assert both.mean() < 0.03
    assert not both[1:-1, 1:-1][~(_edge(picture.core)[1:-1, 1:-1])].any()
    assert picture.spurious.mean() > 0.3
    assert picture.record.area == pytest.approx(picture.core.mean(), abs=0.03)


@pytest.mark.parametrize(
    "wrong", [{"label": "cat"}, {"place": "moon"}, {"trouble": "bored"}, {"redrawn": {"mood": 1}}], ids=lambda w: min(w)
)
def test_unknown_causes_are_named(wrong):
    with pytest.raises(InputError, match="All: "):
        Scene(**{"label": "mug", "seed": 0, **wrong})
    with pytest.raises(InputError, match="even number"):
        render(PLAIN, 33)


# ---- files


def test_the_shipped_files_hold_every_scene_once():
    assert sum((files.shipped() / name).stat().st_size for name in files.FILES) < 14_000_000
    for split, n in files.SPLITS.items():
        table = pq.read_table(
            files.shipped() / f"{split}.parquet", columns=["sample_id", "label", "place", "trouble"]
        ).to_pandas()
        assert table["sample_id"].tolist() == list(files.scenes(split))
        assert len(table) == n
        assert table["label"].value_counts().tolist() == [n // 10] * 10
        usual = (table["place"] == table["label"].map(USUAL_PLACE)).mean()
        assert abs(usual - (0.3 + 0.7 / len(GROUNDS))) < 0.03
        assert abs((table["trouble"] != "none").mean() - 0.3) < 0.03
        assert set(table["trouble"]) == {"none", *TROUBLES}


@pytest.mark.parametrize("sample_id", ["train/mushroom/0000005.webp", "test/mug/1000000.webp", "test/boat/1000009.webp"])
def test_shipped_pictures_are_what_the_renderer_makes(sample_id):
    split = sample_id.split("/")[0]
    (row,) = pq.read_table(files.shipped() / f"{split}.parquet", filters=[("sample_id", "==", sample_id)]).to_pylist()
    picture = render(files.scene_of(sample_id), files.SIDE)
    assert (
        np.abs(decode(row["image"]["bytes"]) - decode(files.webp(picture.image))).mean() < 2
    )  # other processors round otherwise
    assert (mask(row["core_mask"]["bytes"]) != picture.core).mean() < 0.005
    assert (mask(row["spurious_mask"]["bytes"]) != picture.spurious).mean() < 0.005
    for name, value in asdict(picture.record).items():
        assert row[name] == (pytest.approx(value, abs=1e-3) if isinstance(value, float) else value)


def test_scenes_are_found_by_id_only():
    assert files.scene_of("test/mug/1000000.webp") == Scene("mug", 1_000_000)
    for wrong in ("test/mug/0000000.webp", "val/mug/1000000.webp", "../secret"):
        with pytest.raises(InputError, match="not a sample of the demo set"):
            files.scene_of(wrong)


def test_counterfactuals_change_one_cause():
    shipped = pd.read_parquet(files.shipped() / "counterfactuals.parquet")
    assert shipped.groupby("sample_id")["change"].apply(list).tolist() == [list(files.CHANGES)] * 200
    causes = pd.read_parquet(
        files.shipped() / "test.parquet", columns=["sample_id", "place", "trouble", "turned", "clutter", "sun"]
    )
    both = shipped.merge(causes, on="sample_id", suffixes=("", "_was"))
    for change, part in both.groupby("change"):
        kept = {"place", "trouble", "turned", "clutter", "sun"} - {"place": {"place"}, "turned": {"turned"}}.get(
            change, {"trouble"}
        )
        for cause in kept:
            assert np.array_equal(part[cause], part[f"{cause}_was"]), (change, cause)
    moved = both[both["change"] == "place"]
    assert (moved["usual_place"] == (moved["place_was"] != moved["label"].map(USUAL_PLACE))).all()
    hidden = both[both["change"] == "half hidden"]
    assert (hidden["trouble"] == np.where(hidden["trouble_was"] == "occluded", "none", "occluded")).all()
    some = files.shipped_counterfactuals("test/bottle/1000001.webp")
    assert some["change"].tolist() == list(files.CHANGES)
    assert decode(some["image"][0]).shape == (96, 96, 3)
    assert files.shipped_counterfactuals("train/bottle/0000001.webp").empty


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(files, "SPLITS", {"train": 6, "test": 3})
    monkeypatch.setattr(files, "N_COUNTERFACTUAL_SCENES", 1)


def test_rendering_is_equal_in_any_number_of_processes(tmp_path, few):
    files.render_files(tmp_path / "one", Progress(), processes=1)
    files.render_files(tmp_path / "two", Progress(), processes=2)
    assert files.differing(tmp_path / "one", tmp_path / "two") == 0
    table = pd.read_parquet(tmp_path / "two" / "test.parquet")
    table.loc[0, "turned"] += 1
    files._write(tmp_path / "two" / "test.parquet", table)
    assert files.differing(tmp_path / "one", tmp_path / "two") == 1


def test_hugging_face_reads_the_files_as_pictures(tmp_path, few):
    files.render_files(tmp_path, Progress(), processes=1)
    schema = pq.read_schema(tmp_path / "train.parquet")
    assert b'"image": {"_type": "Image"}' in schema.metadata[b"huggingface"]
    assert {f.name for f in schema.field("image").type} == {"bytes", "path"}


def test_a_stopped_unpacking_goes_on(tmp_path, few):
    source, folder = tmp_path / "source", tmp_path / "out"
    files.render_files(source, Progress(), processes=1)
    images = files.unpack(source, folder, Progress())
    found = sorted(p.relative_to(images).as_posix() for p in images.rglob("*.webp"))
    assert found == sorted([*files.scenes("train"), *files.scenes("test")])
    causes = pd.read_parquet(folder / "causes.parquet").set_index("sample_id")
    assert set(causes.index) == set(found)
    assert not {"image", "core_mask"} & set(causes.columns)
    kept, gone, cut = (images / s for s in found[:3])
    before, content = kept.stat().st_mtime_ns, cut.read_bytes()
    gone.unlink()
    cut.write_bytes(content[:10])
    files.unpack(source, folder, Progress())
    assert gone.exists()
    assert cut.read_bytes() == content
    assert kept.stat().st_mtime_ns == before


def test_missing_files_say_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match="sslviz demo --render"):
        files.unpack(tmp_path, tmp_path / "out", Progress())


def test_each_change_by_hand():
    grounds, usual = list(GROUNDS), USUAL_PLACE["mug"]
    one = Scene("mug", 7)
    assert files.counterfactual(one, True, "none", "place").place == grounds[(grounds.index(usual) + 5) % len(grounds)]
    assert files.counterfactual(one, False, "none", "place").place == usual
    assert files.counterfactual(one, False, "none", "turned").turn == 120
    for change, trouble in (("half hidden", "occluded"), ("dark", "dark"), ("far", "far")):
        assert files.counterfactual(one, False, "lying", change).trouble == trouble
        assert files.counterfactual(one, False, trouble, change).trouble == "none"


def test_shipped_counterfactuals_are_what_the_change_renders():
    sample_id = "test/mug/1000000.webp"
    one = files.scene_of(sample_id)
    record = render(one, files.SIDE).record
    for line in files.shipped_counterfactuals(sample_id).to_dict("records"):
        made = render(files.counterfactual(one, record.usual_place, record.trouble, line["change"]), files.SIDE)
        assert np.abs(decode(line["image"]) - decode(files.webp(made.image))).mean() < 2, line["change"]
