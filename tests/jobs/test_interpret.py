"""Heatmaps against masks as a job: every number again from the public functions, and a replica of Salient ImageNet by hand."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from sslviz import explain, feature_maps, highly_activating, mask_iou
from sslviz.data import dataset as datasets
from sslviz.data.masks import add_masks, load_masks
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder
from sslviz.errors import InputError, NotFound, Stale
from sslviz.heatmaps import finish
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.inputs import result_state
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.results import latest_result
from tests.data.test_masks import blob, put, votes
from tests.inputs import folder, pixels, small_encoder


@pytest.fixture
def place(workspace, tmp_path):
    layout = {f"{s}/{c}": n for s, n in (("train", 12), ("test", 8)) for c in ("disc", "ring")}
    dataset, _ = datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", layout))
    small_encoder(workspace)
    for split, n in (("train", 12), ("test", 7)):  # one test image a class has no mask
        for c in ("disc", "ring"):
            for i in range(n):
                put(tmp_path / f"masks/core/{split}/{c}/{i:03d}.png", blob(i, 32, 32))
    put(tmp_path / "masks/core/test/ring/000.png", blob(0, 32, 20))
    add_masks(dataset, tmp_path / "masks")
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    score(ScoreSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    return workspace


def run(workspace, dataset="photos", **options):
    return interpret(InterpretSettings(dataset=dataset, encoder="tiny", **options), workspace, Progress())


def means(summary, metric="iou", who="map"):
    return {(g["kind"], g["group"]): g["mean"] for g in summary["groups"] if g["metric"] == metric and g["who"] == who}


@pytest.mark.parametrize("method", ["activation", "gradcam"])
def test_every_overlap_is_that_of_the_public_functions(place, tmp_path, method):
    summary = run(place, method=method, threshold=0.6)
    result = latest_result(place.results("photos", "tiny", "interpret"))
    looks = result.table("looks").set_index("sample_id")
    assert (summary["n"], len(summary["refused"])) == (13, 1)
    assert "test/ring/000.png is 32 x 20" in summary["refused"][0]
    scored = latest_result(place.results("photos", "tiny", "score"))
    chosen = scored.table("features").query("chosen")["feature"].to_numpy()
    store = EmbeddingStore(place.embeddings("photos", "tiny"))
    row = store.rows().set_index("sample_id")["row"]
    masks, encoder = load_masks(datasets.load(place, "photos")), load_encoder(place, "tiny")
    correct = latest_result(place.results("photos", "tiny", "probe")).table("predictions").set_index("sample_id")["correct"]
    for sample_id in looks.index:
        fires = np.asarray(highly_activating(store.read(row[[sample_id]].to_numpy()), scored.content["summary"]["eps"]))
        kept = np.zeros_like(fires)
        kept[:, chosen] = fires[:, chosen]
        image = pixels(Image.open(tmp_path / "photos" / sample_id))[None]
        heat = explain(encoder, image, kept, method)
        core = masks.read(sample_id, (32, 32), 32, 32)["core"][None]
        assert looks.loc[sample_id, "core_iou_map"] == pytest.approx(float(mask_iou(heat, core, 0.6)[0]), abs=1e-5)
        assert looks.loc[sample_id, "spurious_area_iou_map"] == pytest.approx(
            float(mask_iou(heat, 255 - core, 0.6, weighting="area")[0]), abs=1e-5
        )
        assert looks.loc[sample_id, "core_iou_uniform"] == pytest.approx((core >= 128).mean())
        assert looks.loc[sample_id, "correct"] == correct[sample_id]
        assert looks.loc[sample_id, "core_iou_ceiling"] >= looks.loc[sample_id, "core_iou_map"] - 1e-6
    right = looks[looks["correct"].astype(bool)]
    assert means(summary)["core", "correct"] == pytest.approx(right["core_iou_map"].mean())
    assert summary["n_correct"] == len(right)
    curve = result.table("curve").query("threshold == 0.6 and mask_threshold == 0.5 and group == 'all'").set_index("kind")["miou"]
    assert curve["core"] == pytest.approx(looks["core_iou_map"].mean())
    assert (summary["map_size"], summary["layer"]) == ([8, 8], "expand")
    assert result.table("features").empty == (method == "gradcam")


def test_the_shuffled_base_rate_is_another_images_map(place):
    run(place)
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks")
    assert not np.allclose(looks["core_iou_shuffled"], looks["core_iou_map"])
    maps = latest_result(place.results("photos", "tiny", "interpret")).table("maps")
    assert maps["sample_id"].tolist() == looks["sample_id"].tolist()
    assert all(len(m) == 64 for m in maps["map"])


def test_auto_takes_what_is_exact_and_a_table_of_features_comes_with_it(place):
    assert run(place)["method"] == "activation"
    table = latest_result(place.results("photos", "tiny", "interpret")).table("features")
    assert (table["n"] > 0).all()
    assert_allclose(table["core"] + table["spurious"], 1, atol=1e-4)  # the rest is spurious here
    assert_allclose(table["core_area"] + table["spurious_area"], 1, atol=1e-6)


def test_signed_features_explain_too(place, tmp_path):
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=0.5), place, Progress())
    run(place, signed=True)
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks").set_index("sample_id")
    chosen = latest_result(place.results("photos", "tiny", "score")).table("features").query("chosen")["feature"].to_numpy()
    store, encoder = EmbeddingStore(place.embeddings("photos", "tiny")), load_encoder(place, "tiny")
    row = store.rows().set_index("sample_id")["row"]
    for sample_id in looks.index[:4]:
        h = store.read(row[[sample_id]].to_numpy())[0]
        unit = h / np.linalg.norm(h)
        high, low = unit > unit.mean() + 0.5 * unit.std(), unit < unit.mean() - 0.5 * unit.std()
        image = pixels(Image.open(tmp_path / "photos" / sample_id))[None]
        maps = feature_maps(encoder, image, chosen)[0]
        raw = maps[torch.from_numpy(high[chosen])].sum(0) - maps[torch.from_numpy(low[chosen])].sum(0)
        core = load_masks(datasets.load(place, "photos")).read(sample_id, (32, 32), 32, 32)["core"][None]
        assert low[chosen].any()
        wanted = float(mask_iou(finish(raw[None], (32, 32)), core)[0])
        assert looks.loc[sample_id, "core_iou_map"] == pytest.approx(wanted, abs=1e-5)


def test_train_masks_are_judged_out_of_fold(place, workspace, tmp_path):
    import shutil

    shutil.rmtree(tmp_path / "masks/core/test")
    dataset = datasets.load(workspace, "photos")
    add_masks(dataset, tmp_path / "masks")
    summary = run(place)
    assert (summary["judged_on"], summary["n"]) == ("train", 24)
    assert any("out-of-fold" in note for note in summary["notes"])
    assert 0 < summary["n_correct"] + summary["n_wrong"] == 24


def test_other_masks_make_it_stale(place, tmp_path):
    run(place)
    dataset = datasets.load(place, "photos")
    assert result_state(place, dataset, "tiny", "interpret")[0] == "fresh"
    put(tmp_path / "masks/core/test/disc/001.png", ~blob(1, 32, 32))
    add_masks(dataset, tmp_path / "masks")
    assert result_state(place, dataset, "tiny", "interpret")[:2] == ("stale", "masks have changed since")
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=2.5), place, Progress())
    run(place)
    assert result_state(place, dataset, "tiny", "interpret")[0] == "fresh"
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=1), place, Progress())
    assert result_state(place, dataset, "tiny", "interpret")[:2] == ("stale", "score has changed since")


def test_what_is_missing_is_said(place, workspace, tmp_path):
    (place.dataset("photos") / "masks.json").unlink()
    with pytest.raises(NotFound, match="has no masks. Add them: sslviz data add photos .*photos --masks FOLDER"):
        run(place)
    dataset, _ = datasets.add_folder(workspace, "loose", folder(tmp_path / "loose", {"train": 6, "test": 4}))
    for i in range(4):
        put(tmp_path / f"m/core/test/{i:03d}.png", blob(i, 32, 32))
    add_masks(dataset, tmp_path / "m")
    embed(EmbedSettings(dataset="loose", encoder="tiny"), workspace, Progress())
    with pytest.raises(NotFound, match="no score of loose by tiny yet. Make it: sslviz score"):
        run(place, "loose")
    score(ScoreSettings(dataset="loose", encoder="tiny"), workspace, Progress())
    summary = run(place, "loose")
    assert {g["group"] for g in summary["groups"]} == {"all"}
    assert any("no labels" in note for note in summary["notes"])
    for i in range(4):
        put(tmp_path / f"m/core/test/{i:03d}.png", blob(i, 32, 20))
    add_masks(dataset, tmp_path / "m")
    with pytest.raises(InputError, match="none of the 4 masks could be used"):
        run(place, "loose")
    (tmp_path / "loose/train/005.png").unlink()
    with pytest.raises(Stale, match="stale"):
        run(place, "loose")


# ---- 30 images as Salient ImageNet has them, with an encoder that looks where it is told


class Corner(torch.nn.Module):
    """Eight features, the means of the eight parts of a 4 x 2 grid of the red channel, as 4 x 4 maps."""

    def __init__(self):
        super().__init__()
        self.stage = torch.nn.Conv2d(1, 8, 1, bias=False)

    def forward(self, x):
        red = torch.nn.functional.adaptive_avg_pool2d(x[:, :1], (4, 4))
        parts = torch.zeros(len(x), 8, 4, 4)
        for j in range(8):
            parts[:, j, j // 2, 2 * (j % 2) : 2 * (j % 2) + 2] = red[:, 0, j // 2, 2 * (j % 2) : 2 * (j % 2) + 2]
        return self.mark(parts).mean((2, 3))


@pytest.fixture
def replica(workspace, tmp_path, monkeypatch):
    """30 train images of 3 classes, 256 x 256; in each the same two of the eight parts of its crop are red."""
    from sslviz.encoders.backbones import BACKBONES, Family

    class Corners(Family):
        def build(self, architecture):
            net = Corner()
            net.stage = None
            net.mark = torch.nn.Identity()
            return net

        def architecture(self, shapes, writer):
            raise NotImplementedError

        def owns(self, name):
            return True

    monkeypatch.setitem(BACKBONES._entries, "corners", Corners())
    images, root = tmp_path / "imagenet", tmp_path / "salient"
    wnids = ["n00000001", "n00000002", "n00000003"]
    rng = np.random.default_rng(0)
    answers = {}
    for c, wnid in enumerate(wnids):
        (images / "train" / wnid).mkdir(parents=True)
        core, spurious = np.zeros((2, 224, 224), np.uint8)
        for j, mask in ((2 * c, core), (2 * c + 1, spurious)):
            mask[56 * (j // 2) : 56 * (j // 2 + 1), 112 * (j % 2) : 112 * (j % 2 + 1)] = 255
        for k in range(10):
            picture = np.zeros((256, 256, 3), np.uint8)
            crop = picture[16:240, 16:240]
            hot = core if k < 8 else spurious  # two in ten look at what is spurious
            crop[hot > 0, 0] = 200 + rng.integers(0, 20)
            Image.fromarray(picture).save(images / "train" / wnid / f"{wnid}_{k}.png")
            for feature, mask in (("11", core), ("12", spurious)):
                if feature == "12" and k % 2:
                    continue  # half of them have a core mask only
                path = root / "salient_imagenet_dataset" / wnid / f"feature_{feature}" / f"{wnid}_{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path)
        answers[f"{wnid}/11"] = [("main_object", f"part {c}")] * 3 + [("background", "")] * 2
        answers[f"{wnid}/12"] = [("background", "sky")] * 3 + [("main_object", "")] * 2
    votes(root / "mturk_results/discover_spurious_features.csv", answers)
    dataset, _ = datasets.add_folder(workspace, "imagenet", images)
    spec = EncoderSpec(
        name="tiny",
        backbone="corners",
        architecture={},
        feature_dim=8,
        input=InputSpec(size=224, resize=256, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    save_encoder(workspace, spec, {})
    masks = add_masks(dataset, root)
    embed(EmbedSettings(dataset="imagenet", encoder="tiny"), workspace, Progress())
    score(ScoreSettings(dataset="imagenet", encoder="tiny", eps=1, lower=0, upper=100), workspace, Progress())
    return masks


def test_a_replica_of_salient_imagenet_to_numbers_by_hand(replica, workspace):
    assert replica.facts["counts"] == {"core": 30, "spurious": 15, "both": 15, "images": 30}
    summary = run(workspace, "imagenet")
    looks = latest_result(workspace.results("imagenet", "tiny", "interpret")).table("looks").set_index("sample_id")
    assert (summary["n"], summary["judged_on"], summary["n_zero"]) == (30, "train", 0)
    # the map is one row high and two places wide, its mask 56 x 112: as areas they agree but for the blurred edge
    on_core = looks[[int(i.rsplit("_", 1)[1].split(".")[0]) < 8 for i in looks.index]]
    assert (on_core["core_area_iou_map"] > 0.75).all()
    assert (on_core["spurious_iou_map"] == 0).all()
    off = looks.drop(on_core.index)
    assert (off["core_iou_map"] < 0.1).all()
    with_both = off[[int(i.rsplit("_", 1)[1].split(".")[0]) == 8 for i in off.index]]
    assert (with_both["spurious_area_iou_map"] > 0.75).all()
    # 3 of 30 have no spurious mask and look at it: an empty mask against a map that is not empty counts 0
    table = latest_result(workspace.results("imagenet", "tiny", "interpret")).table("features").set_index("feature")
    assert table.loc[[0, 2, 4], "name"].tolist() == ["part 0", "part 1", "part 2"]
    assert table.loc[[0, 2, 4], "support"].tolist() == [8, 8, 8]
    assert_allclose(table.loc[[0, 2, 4], "core"], 1, atol=1e-6)
    assert_allclose(table.loc[[1, 3, 5], "core"], 0, atol=1e-6)
    assert table.loc[[0, 2, 4], "n"].tolist() == [8, 8, 8]
    assert summary["masks"]["both"] == 15
    assert looks["correct"].notna().all()
