"""Masks in every form people store them, in the geometry their picture gets."""

import csv
import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from sslviz.data import dataset as datasets
from sslviz.data.images import fit
from sslviz.data.masks import add_masks, decode_mask, in_frame, load_masks, mask_facts, refresh_masks
from sslviz.data.salient import read_votes
from sslviz.errors import InputError, NotFound, Untrusted
from tests.inputs import encoded, folder, picture, pixels

W, H = 160, 100


def blob(seed=0, width=W, height=H):
    y, x = np.mgrid[0:height, 0:width]
    return np.hypot(x - width * (0.35 + 0.05 * (seed % 4)), (y - height * 0.45) * 1.3) < height * 0.3


def grey(mask):
    return Image.fromarray((mask * 255).astype(np.uint8))


FORMS = {
    "0/255": lambda m: encoded(grey(m)),
    "0/1": lambda m: encoded(Image.fromarray(m.astype(np.uint8))),
    "one bit": lambda m: encoded(grey(m).convert("1")),
    "16 bit": lambda m: encoded(Image.fromarray((m * 65535).astype(np.uint16))),
    "half size": lambda m: encoded(grey(m).resize((W // 2, H // 2), Image.Resampling.NEAREST)),
    "soft": lambda m: encoded(grey(m).resize((2 * W, 2 * H), Image.Resampling.BILINEAR)),
    "JPEG": lambda m: encoded(grey(m), "JPEG", quality=60),
    "RGBA": lambda m: encoded(Image.merge("RGBA", [grey(m)] * 4)),
    "alpha only": lambda m: encoded(Image.merge("RGBA", [Image.new("L", (W, H), 200)] * 3 + [grey(m)])),
    "palette": lambda m: encoded(grey(m).quantize(2)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("resize", "size"), [(64, 64), (73, 64), (100, 100)])
def test_every_form_covers_what_the_picture_shows(form, resize, size):
    mask = blob()
    seen = np.asarray(fit(pixels(grey(mask)), resize, size))[0] >= 128  # the object drawn white, moved as a picture is
    values = decode_mask(FORMS[form](mask), "m.png")
    assert values.dtype == np.uint8
    assert values.max() == 255
    found = in_frame(values, (W, H), resize, size)
    assert found.shape == (size, size)
    if form not in ("soft", "JPEG"):
        assert set(np.unique(found)) == {0, 255}
    assert ((found >= 128) != seen).mean() < 0.015
    assert abs((found >= 128).sum() / seen.sum() - 1) < 0.03 + 0.03 * (form == "half size")


def test_labels_and_dim_masks_are_no_empty_object():
    mask = blob()
    labels = Image.fromarray(np.where(mask, 1, 0).astype(np.uint8), "P")
    labels.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # as VOC and DAVIS store them: dark red, grey 38
    dim = Image.fromarray(mask * np.uint8(2))
    for image in (labels, dim):
        assert_array_equal(decode_mask(encoded(image), "m.png"), mask * np.uint8(255))
    assert decode_mask(encoded(dim), "m.png", "soft").max() == 2
    ramp = np.tile(np.arange(W, dtype=np.uint8), (H, 1))
    assert_array_equal(decode_mask(encoded(Image.fromarray(ramp)), "m.png"), ramp)  # many values: soft


def test_masks_in_the_forms_that_tools_write():
    """A cut-out (the picture in the colours, the mask in alpha), floats, 16 bits as grey and as labels, a palette of greys."""
    mask, photo = blob(), np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    cut_out = Image.fromarray(np.dstack([photo, mask * np.uint8(255)]))
    assert_array_equal(decode_mask(encoded(cut_out), "m.png"), mask * np.uint8(255))
    ramp = np.linspace(0, 1, W, dtype=np.float32)[None].repeat(H, 0)
    for image in (Image.fromarray(ramp), Image.fromarray(ramp * 255)):
        assert_allclose(decode_mask(encoded(image, "TIFF"), "m.tif"), ramp * 255, atol=0.51)
    sixteen = Image.fromarray((ramp * 65535).astype(np.uint16))
    assert_allclose(decode_mask(encoded(sixteen), "m.png").astype(int), ramp * 255, atol=1)
    labels = np.where(mask, 1 + (np.arange(W) // 8)[None], 0).astype(np.uint16) * 100  # things 1, 2, … of a panoptic mask
    assert_array_equal(decode_mask(encoded(Image.fromarray(labels)), "m.png"), mask * np.uint8(255))
    greys = Image.fromarray((ramp * 255).astype(np.uint8), "P")
    greys.putpalette([k for k in range(256) for _ in range(3)])
    assert_array_equal(decode_mask(encoded(greys), "m.png"), (ramp * 255).astype(np.uint8))
    with pytest.raises(InputError, match="m.tif holds numbers outside"):
        decode_mask(encoded(Image.fromarray(ramp * 1000), "TIFF"), "m.tif")
    lab = Image.fromarray(photo, "LAB")
    with pytest.raises(InputError, match="m.tif is not a readable image"):
        decode_mask(encoded(lab, "TIFF"), "m.tif")


def test_a_mask_is_not_shifted_against_its_picture():
    mask = np.zeros((64, 96), bool)
    mask[16:32, 40:56] = True
    found = in_frame((mask * 255).astype(np.uint8), (96, 64), 64, 48)  # centre crop: 8 off the top, 24 off the left
    wanted = np.zeros((48, 48), np.uint8)
    wanted[8:24, 16:32] = 255
    assert_array_equal(found, wanted)


def test_trimaps():
    trimap = np.array([[2, 3, 1], [2, 1, 1]], np.uint8)
    assert decode_mask(encoded(Image.fromarray(trimap)), "t.png", "trimap").tolist() == [[0, 128, 255], [0, 255, 255]]
    with pytest.raises(InputError, match="t.png holds 0; a trimap holds 1"):
        decode_mask(encoded(Image.fromarray(trimap * 0)), "t.png", "trimap")
    with pytest.raises(InputError, match=r"t.png is not a readable image"):
        decode_mask(b"hello", "t.png")


@pytest.fixture
def photos(workspace, tmp_path):
    def make(layout, side=32):
        dataset, _ = datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", layout, side))
        return dataset

    return make


def put(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(grey(mask)))


def test_folders_of_core_and_spurious(photos, tmp_path):
    dataset = photos({"train/cat": 3, "test/cat": 2})
    core, spurious = blob(0, 32, 32), blob(1, 32, 32) & ~blob(0, 32, 32)
    for name in ("train/cat/000", "train/cat/001", "test/cat/000", "train/cat/077", "train/dog/000"):
        put(tmp_path / f"masks/core/{name}.png", core)
    put(tmp_path / "masks/spurious/train/cat/001.jpg", spurious)
    masks = add_masks(dataset, tmp_path / "masks")
    assert masks.samples() == ["test/cat/000.png", "train/cat/000.png", "train/cat/001.png"]
    assert masks.facts["counts"] == {"core": 3, "spurious": 1, "both": 1, "images": 5}
    notes = " ".join(masks.facts["notes"])
    assert "3 of 5 images have a mask" in notes
    assert "train/cat/077.png" in notes  # no such picture
    assert "train/dog/000.png" in notes  # another class: never by the file's name alone
    again = load_masks(dataset)
    found = again.read("train/cat/001.png", (32, 32), 32, 32)
    assert_array_equal(found["core"] >= 128, core)
    assert (found["spurious"] >= 128).sum() == pytest.approx(spurious.sum(), rel=0.1)
    assert again.read("train/cat/002.png", (32, 32), 32, 32) == {}
    put(tmp_path / "masks/core/train/cat/000.png", ~core)
    assert add_masks(dataset, tmp_path / "masks").fingerprint != masks.fingerprint


def test_one_tree_like_the_images_own(photos, tmp_path):
    dataset = photos({"train/cat": 2, "val/cat": 1})
    for name in ("train/cat/000", "val/cat/000"):
        put(tmp_path / f"drawn/{name}.png", blob(0, 32, 32))
    masks = add_masks(dataset, tmp_path / "drawn")
    assert masks.facts["rest"]
    found = masks.read("val/cat/000.png", (32, 32), 32, 32)
    assert_array_equal(found["spurious"], 255 - found["core"])


def test_a_folder_of_surroundings_only_is_none_of_objects(photos, tmp_path):
    dataset = photos({"train/cat": 2})
    put(tmp_path / "m/Spurious/train/cat/000.png", blob(0, 32, 32))
    masks = add_masks(dataset, tmp_path / "m")
    assert (masks.facts["counts"]["core"], masks.facts["counts"]["spurious"]) == (0, 1)


def test_a_link_that_leads_nowhere_is_one_mask_that_cannot_be_read(photos, tmp_path):
    dataset = photos({"train/cat": 2})
    put(tmp_path / "m/core/train/cat/000.png", blob(0, 32, 32))
    os.symlink(tmp_path / "gone.png", tmp_path / "m/core/train/cat/001.png")
    masks = add_masks(dataset, tmp_path / "m")
    assert masks.read("train/cat/000.png", (32, 32), 32, 32)["core"].any()
    with pytest.raises(InputError, match=r"001.png cannot be read"):
        masks.read("train/cat/001.png", (32, 32), 32, 32)


def test_masks_of_pictures_inside_a_workspace_move_with_it(tmp_path):
    from sslviz.store.workspace import Workspace

    workspace = Workspace(tmp_path / "here").create()
    inside = workspace.dataset("own") / "images"
    folder(inside, {"train/cat": 2})
    dataset, _ = datasets.add_folder(workspace, "own", inside)
    put(tmp_path / "m/core/train/cat/000.png", blob(0, 32, 32))
    add_masks(dataset, tmp_path / "m")
    (tmp_path / "here").rename(tmp_path / "there")
    assert mask_facts(datasets.load(Workspace(tmp_path / "there"), "own"))["counts"]["core"] == 1


def test_trimaps_as_torchvision_unpacks_them(workspace, tmp_path):
    root = tmp_path / "oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    (root / "annotations/trimaps").mkdir(parents=True)
    trimap = np.where(blob(0, 32, 32), 1, 2).astype(np.uint8)
    for name in ("Abyssinian_1", "pug_2"):
        picture(1).save(root / f"images/{name}.jpg")
        Image.fromarray(trimap).save(root / f"annotations/trimaps/{name}.png")
    dataset, _ = datasets.add_folder(workspace, "pets", root / "images")
    masks = add_masks(dataset, root)
    assert masks.facts["form"] == "trimaps"
    assert_array_equal(masks.read("pug_2.jpg", (32, 32), 32, 32)["core"] >= 128, blob(0, 32, 32))


def test_another_aspect_is_refused_by_name(photos, tmp_path):
    dataset = photos({"train/cat": 1})
    put(tmp_path / "m/core/train/cat/000.png", blob(0, 32, 20))
    masks = add_masks(dataset, tmp_path / "m")
    with pytest.raises(InputError, match=r"core/train/cat/000.png is 32 x 20, its picture 32 x 32: another aspect"):
        masks.read("train/cat/000.png", (32, 32), 32, 32)
    (tmp_path / "m/core/train/cat/000.png").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        masks.read("train/cat/000.png", (32, 32), 32, 32)


def test_an_ambiguous_name_is_nobodys(photos, tmp_path):
    dataset = photos({"train/cat": 2, "train/dog": 2})
    put(tmp_path / "m/core/000.png", blob(0, 32, 32))  # of a cat or of a dog?
    put(tmp_path / "m/core/train/cat/001.png", blob(0, 32, 32))
    masks = add_masks(dataset, tmp_path / "m")
    assert masks.samples() == ["train/cat/001.png"]
    assert "000.png" in " ".join(masks.facts["notes"])


def test_files_that_change_are_seen(photos, tmp_path):
    dataset = photos({"train/cat": 2})
    put(tmp_path / "m/core/train/cat/000.png", blob(0, 32, 32))
    before = add_masks(dataset, tmp_path / "m")
    stored = dataset.folder / "masks.parquet"
    stamp = stored.stat().st_mtime_ns
    assert refresh_masks(dataset).fingerprint == before.fingerprint
    assert stored.stat().st_mtime_ns == stamp  # nothing is written while nothing changes
    for lost in (lambda: stored.write_bytes(b"PAR1"), stored.unlink):
        lost()
        refresh_masks(dataset)
        assert load_masks(dataset).samples() == before.samples()
    put(tmp_path / "m/core/train/cat/001.png", blob(0, 32, 32))
    assert len(refresh_masks(dataset).samples()) == 2
    assert load_masks(dataset).fingerprint != before.fingerprint
    facts = {**dataset.facts, "root": str(tmp_path / "elsewhere")}
    assert mask_facts(datasets.Dataset(dataset.name, dataset.folder, facts, dataset.samples)) is None


def test_what_cannot_be_added(photos, tmp_path):
    dataset = photos({"train/cat": 1})
    with pytest.raises(NotFound, match="no folder"):
        add_masks(dataset, tmp_path / "nowhere")
    put(tmp_path / "m/core/other.png", blob(0, 32, 32))
    with pytest.raises(InputError, match="no mask below .* has the name of a picture"):
        add_masks(dataset, tmp_path / "m")
    assert load_masks(dataset) is None
    outside = tmp_path / "secret"
    put(outside / "train/cat/000.png", blob(0, 32, 32))
    (tmp_path / "allowed/core").mkdir(parents=True)
    os.symlink(outside / "train", tmp_path / "allowed/core/train")
    with pytest.raises(InputError, match="no mask below"):
        add_masks(dataset, tmp_path / "allowed", inside=[tmp_path / "allowed"])


# ---- Salient ImageNet


VOTES = ["WorkerId", "Input.wordnet_id", "Input.class_index", "Input.feature_index", "Input.feature_rank", "Answer.main"]
VOTES += ["Answer.confidence", "Answer.reasons"]


def votes(path, answers):
    """answers: {"wnid/feature": [(main, reasons), ...]}"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(VOTES)
        for feature, given in answers.items():
            wnid, index = feature.split("/")
            for k, (main, why) in enumerate(given):
                table.writerow([f"w{k}", wnid, "1", index, "1", main, "5", why])


def test_three_of_five_make_a_feature_spurious(tmp_path):
    main, other, ground = ("main_object", "ear"), ("separate_object", "man"), ("background", "sky")
    votes(tmp_path / "v.csv", {"n1/1": [main, main, main, other, ground], "n1/2": [main, main, other, ground, ground]})
    found = read_votes(tmp_path / "v.csv")
    assert (found["n1/1"].kind, found["n1/2"].kind) == ("core", "spurious")
    assert found["n1/1"].reasons == ["ear"] * 3
    assert found["n1/2"].reasons == ["man", "sky", "sky"]  # of those whose vote the verdict is
    with (tmp_path / "v.csv").open("a") as handle:
        handle.write("w9,n1,1,3\n")  # a row that was cut off
    assert read_votes(tmp_path / "v.csv")["n1/3"] == ("core", [])
    (tmp_path / "v.csv").write_text("WorkerId,Answer.main\n1,background\n")
    with pytest.raises(InputError, match="no column Answer.reasons"):
        read_votes(tmp_path / "v.csv")


@pytest.fixture
def salient(workspace, tmp_path):
    """Two classes of two 64-px images each; feature 7 core, 9 spurious, 4 core on one image."""
    images, root = tmp_path / "imagenet", tmp_path / "salient"
    place = root / "salient_imagenet_dataset"
    for wnid in ("n01440764", "n02007558"):
        (images / "train" / wnid).mkdir(parents=True)
        for k in range(2):
            picture(k, 64, 64).save(images / "train" / wnid / f"{wnid}_{k}.JPEG")
    left, right, top = (np.zeros((224, 224), np.uint8) for _ in range(3))
    left[:, :112], right[:, 112:], top[:112] = 255, 255, 200
    plan = {"n01440764/7": (left, (0, 1)), "n01440764/4": (top, (0,)), "n01440764/9": (right, (0,)), "n02007558/9": (right, (1,))}
    for feature, (mask, which) in plan.items():
        wnid, index = feature.split("/")
        for k in which:
            path = place / wnid / f"feature_{index}" / f"{wnid}_{k}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path, quality=95)
    (place / "n01440764" / "image_names_map.csv").write_text(",7,9\n0,n01440764_0,n01440764_0\n1,n01440764_1,n01440764_5\n")
    core, spurious = [("main_object", "fin")] * 5, [("background", "water")] * 5
    votes(
        root / "mturk_results/discover_spurious_features.csv",
        {"n01440764/7": core, "n01440764/4": core, "n01440764/9": spurious, "n02007558/9": spurious},
    )
    dataset, _ = datasets.add_folder(workspace, "imagenet", images)
    return dataset, root


def test_salient_imagenet(salient):
    dataset, root = salient
    masks = add_masks(dataset, root)
    assert masks.facts["form"] == "Salient ImageNet"
    assert not masks.facts["rest"]
    assert masks.facts["counts"] == {"core": 2, "spurious": 2, "both": 1, "images": 4}
    notes = " ".join(masks.facts["notes"])
    assert "1 images of 1 classes have core and spurious masks (in the paper 6,858 of 327)" in notes
    assert "1 masks that image_names_map.csv names are not there: n01440764/9/n01440764_5" in notes
    assert masks.words["n01440764/7"] == ["fin"] * 5
    one = "train/n01440764/n01440764_0.JPEG"
    found = masks.read(one, (500, 375), 256, 224)  # as stored: no second centre crop
    assert found["core"].shape == (224, 224)
    assert_allclose(found["core"][:, :100], 255, atol=6)  # left half of feature 7, and the top of feature 4: the maximum
    assert_allclose(found["core"][:100, 124:], 200, atol=6)
    assert_allclose(found["core"][124:, 124:], 0, atol=6)
    assert_allclose(found["spurious"][:, 124:], 255, atol=6)
    assert "spurious" not in masks.read("train/n01440764/n01440764_1.JPEG", (500, 375), 256, 224)  # not annotated is not empty
    assert set(masks.features(one, (500, 375), 256, 224)) == {"n01440764/7", "n01440764/4"}


@pytest.mark.parametrize(("resize", "size"), [(256, 224), (73, 64), (64, 64), (32, 16)])
def test_salient_masks_under_another_crop(salient, resize, size):
    dataset, root = salient
    found = add_masks(dataset, root).read("train/n01440764/n01440764_1.JPEG", (500, 375), resize, size)["core"]
    side = resize * 224 / 256  # the mask's frame in the encoder's pixels, in the middle of its crop
    edge, middle = (size - side) / 2, size / 2
    x = np.arange(size) + 0.5
    wanted = (x > max(0, edge)) & (x < middle)
    rows = found[size // 2] >= 128
    assert np.abs(rows.astype(int) - wanted).sum() <= 1
    assert (found[:, : int(max(0, edge - 1))] == 0).all()


def test_votes_outside_the_allowed_folders_are_not_read(salient, tmp_path):
    dataset, root = salient
    path = root / "mturk_results/discover_spurious_features.csv"
    path.rename(tmp_path / "elsewhere.csv")
    os.symlink(tmp_path / "elsewhere.csv", path)
    with pytest.raises(Untrusted, match="leads outside"):
        add_masks(dataset, root, inside=[root])


def test_salient_imagenet_without_spurious_features_does_not_call_the_rest_spurious(salient):
    dataset, root = salient
    votes(
        root / "mturk_results/discover_spurious_features.csv",
        dict.fromkeys(("n01440764/7", "n01440764/4", "n01440764/9", "n02007558/9"), [("main_object", "fin")] * 5),
    )
    masks = add_masks(dataset, root)
    assert masks.facts["counts"]["spurious"] == 0
    assert not masks.facts["rest"]
    assert set(masks.read("train/n01440764/n01440764_0.JPEG", (64, 64), 64, 64)) == {"core"}


def test_a_salient_masks_image_that_is_there_twice_has_none(salient, workspace):
    dataset, root = salient
    again = dataset.root / "val" / "n01440764"
    again.mkdir(parents=True)
    picture(5, 64, 64).save(again / "n01440764_0.JPEG")
    dataset, _ = datasets.refresh(workspace, "imagenet")
    masks = add_masks(dataset, root)
    assert masks.samples() == ["train/n01440764/n01440764_1.JPEG"]
    assert "their image is not in the data set, or twice" in " ".join(masks.facts["notes"])


def test_salient_imagenet_without_votes(salient):
    dataset, root = salient
    (root / "mturk_results/discover_spurious_features.csv").unlink()
    with pytest.raises(NotFound, match="without the workers' votes"):
        add_masks(dataset, root)


def test_masks_beside_class_folders_are_no_class(workspace, tmp_path):
    root = folder(tmp_path / "all", {"cat": 5, "dog": 5})
    put(root / "masks/core/cat/000.png", blob(0, 32, 32))
    dataset, notes = datasets.add_folder(workspace, "all", root)
    assert dataset.classes == ["cat", "dog"]
    assert any("left out: masks (1)" in note for note in notes)
    assert add_masks(dataset, root / "masks").samples() == ["cat/000.png"]
