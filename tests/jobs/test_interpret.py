"""Heatmaps against masks as a job: every number again from the public functions, and a replica of Salient ImageNet by hand."""

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.testing import assert_allclose
from PIL import Image
from rich.console import Console

from sslviz import explain, feature_maps, highly_activating, mask_iou
from sslviz.analysis.masks import centre_blob, mass_inside
from sslviz.analysis.probe import out_of_fold
from sslviz.cli import results
from sslviz.data import dataset as datasets
from sslviz.data.loading import read_picture
from sslviz.data.masks import add_masks, load_masks
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import EncoderSpec, InputSpec
from sslviz.encoders.store import save_encoder
from sslviz.errors import InputError, NotFound, Stale
from sslviz.heatmaps import finish
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.inputs import open_embedded, result_state
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.jobs.probe import ProbeSettings, probe
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.results import latest_result
from tests.data.test_masks import blob, put, votes
from tests.inputs import demo_part, folder, pixels, small_encoder


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
    blob_map = np.exp(-8 * (((np.arange(32) + 0.5) / 32 - 0.5)[:, None] ** 2 + ((np.arange(32) + 0.5) / 32 - 0.5) ** 2))
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
        middle = (blob_map / blob_map.max())[None].astype(np.float32)
        assert looks.loc[sample_id, "core_iou_blob"] == pytest.approx(float(mask_iou(middle, core, 0.6)[0]), abs=1e-5)
        assert looks.loc[sample_id, "core_iou_uniform"] == pytest.approx((core >= 128).mean())
        assert looks.loc[sample_id, "correct"] == correct[sample_id]
        small = torch.nn.functional.avg_pool2d(torch.from_numpy(core).float(), 4)
        assert looks.loc[sample_id, "core_iou_ceiling"] == pytest.approx(
            float(mask_iou(finish(small, (32, 32)), core, 0.6)[0]), abs=1e-5
        )
    right = looks[looks["correct"].astype(bool)]
    assert means(summary)["core", "correct"] == pytest.approx(right["core_iou_map"].mean())
    assert summary["n_correct"] == len(right)
    curve = result.table("curve").query("threshold == 0.6 and mask_threshold == 0.5 and group == 'all'").set_index("kind")["miou"]
    assert curve["core"] == pytest.approx(looks["core_iou_map"].mean())
    assert (summary["map_size"], summary["layer"]) == ([8, 8], "expand")
    features = result.table("features")
    fires_in = [
        np.asarray(highly_activating(store.read(row[[i]].to_numpy()), scored.content["summary"]["eps"]))[0] for i in looks.index
    ]
    assert dict(zip(features["feature"], features["n"], strict=True)) == {
        j: n for j, n in enumerate(np.sum(fires_in, 0)) if n and j in set(chosen)
    }


def test_the_shuffled_base_rate_is_another_images_map(place):
    run(place)
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks")
    assert not np.allclose(looks["core_iou_shuffled"], looks["core_iou_map"])
    maps = latest_result(place.results("photos", "tiny", "interpret")).table("maps")
    assert maps["sample_id"].tolist() == looks["sample_id"].tolist()
    assert all(len(m) == 64 for m in maps["map"])

    same = [looks["sample_id"].str.contains("disc")[k] == looks["sample_id"].str.contains("disc")[k - 1] for k in range(1, 13)]
    assert sum(same) < 10  # images come in a drawn order: the one before is not of the same class by the folder's order
    assert sorted(looks["sample_id"]) != looks["sample_id"].tolist()


def test_images_in_which_nothing_fires_are_counted(place):
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=30), place, Progress())
    summary = run(place)
    assert summary["n_zero"] == summary["n"] == 13
    assert any(note.startswith("maps without positive evidence") and note.endswith(": 13") for note in summary["notes"])


def test_masks_that_changed_on_disk_are_read_anew(place, tmp_path):
    run(place)
    before = latest_result(place.results("photos", "tiny", "interpret"))
    put(tmp_path / "masks/core/test/ring/000.png", blob(0, 32, 32))  # it had another aspect
    assert run(place)["n"] == 14
    assert latest_result(place.results("photos", "tiny", "interpret")).inputs["masks"] != before.inputs["masks"]


def test_masks_of_a_split_that_is_not_judged_are_taken(workspace, tmp_path):
    """val beside test: the probe answers for both."""
    layout = {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("disc", "ring")}
    dataset, _ = datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", layout))
    small_encoder(workspace)
    for c in ("disc", "ring"):
        for i in range(6):
            put(tmp_path / f"masks/core/val/{c}/{i:03d}.png", blob(i, 32, 32))
    add_masks(dataset, tmp_path / "masks")
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    score(ScoreSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    summary = run(workspace)
    assert (summary["judged_on"], summary["n"]) == ("val", 12)
    assert summary["n_correct"] + summary["n_wrong"] == 12


def test_auto_takes_what_is_exact_and_a_table_of_features_comes_with_it(place):
    assert run(place)["method"] == "activation"
    table = latest_result(place.results("photos", "tiny", "interpret")).table("features")
    assert (table["n"] > 0).all()
    assert_allclose(table["core"] + table["spurious"], 1, atol=1e-4)  # the rest is spurious here
    assert_allclose(table["core_area"] + table["spurious_area"], 1, atol=1e-6)


def test_the_masks_threshold_is_the_jobs_own(place, tmp_path):
    soft = (blob(1, 32, 32) * 255).astype(np.uint8) // 2 + (blob(0, 32, 32) * 120).astype(np.uint8)
    Image.fromarray(soft).save(tmp_path / "masks/core/test/disc/001.png")
    run(place, mask_threshold=0.9)
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks").set_index("sample_id")
    assert looks.loc["test/disc/001.png", "core_iou_uniform"] == pytest.approx((soft >= 0.9 * 255).mean())
    curve = latest_result(place.results("photos", "tiny", "interpret")).table("curve")
    at = curve.query("kind == 'core' and group == 'all' and threshold == 0.5").set_index("mask_threshold")["miou"]
    assert at[0.25] != at[0.75]


def test_on_the_demo_an_objects_feature_lies_on_the_object(workspace):
    """Sanity: of the feature that fires on objects most in train, the map on test images beats all three base rates."""
    dataset = demo_part(workspace, 240, 120)
    masks, encoder = load_masks(dataset), load_encoder(workspace, "simclr-demo")

    def seen(split):
        ids = [i for i in masks.samples() if i.startswith(split)]
        images = torch.stack([read_picture(dataset.root / i, 64, 64).pixels for i in ids])
        core = np.stack([masks.read(i, (96, 96), 64, 64)["core"] for i in ids])
        return images, core

    images, core = seen("train")
    h = encoder.embed(images).numpy()
    fires = np.asarray(highly_activating(h, 1.75))
    maps = feature_maps(encoder, images, np.arange(512)).clamp_min(0).numpy()
    inside = (maps * (torch.nn.functional.avg_pool2d(torch.from_numpy(core >= 128).float(), 8).numpy())[:, None]).sum((2, 3))
    share = np.where(fires, inside / np.maximum(maps.sum((2, 3)), 1e-9), 0).sum(0) / np.maximum(fires.sum(0), 1)
    feature = int(np.argmax(np.where(fires.sum(0) >= 20, share, -1)))
    images, core = seen("test")
    fires = np.asarray(highly_activating(encoder.embed(images).numpy(), 1.75))[:, feature]
    heat = np.asarray(explain(encoder, images[torch.from_numpy(fires)], [feature]))
    core = core[fires]
    assert len(core) >= 8
    mine = np.nanmean(mass_inside(heat, core))
    others = {
        "blob": np.broadcast_to(centre_blob(64, 64), heat.shape),
        "uniform": np.ones_like(heat),
        "shuffled": np.roll(heat, 1, 0),
    }
    for name, maps in others.items():
        assert mine > np.nanmean(mass_inside(maps, core)) + 0.05, name


@pytest.mark.parametrize("method", ["activation", "gradcam"])
def test_signed_features_explain_too(place, tmp_path, method):
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=0.5), place, Progress())
    layer = run(place, signed=True, method=method)["layer"]
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks").set_index("sample_id")
    chosen = latest_result(place.results("photos", "tiny", "score")).table("features").query("chosen")["feature"].to_numpy()
    store, encoder = EmbeddingStore(place.embeddings("photos", "tiny")), load_encoder(place, "tiny")
    row = store.rows().set_index("sample_id")["row"]
    for sample_id in looks.index[:4]:
        h = store.read(row[[sample_id]].to_numpy())[0]
        unit = h / np.linalg.norm(h)
        high, low = unit > unit.mean() + 0.5 * unit.std(), unit < unit.mean() - 0.5 * unit.std()
        image = pixels(Image.open(tmp_path / "photos" / sample_id))[None]
        if method == "activation":
            maps = feature_maps(encoder, image, chosen)[0]
            raw = maps[torch.from_numpy(high[chosen])].sum(0) - maps[torch.from_numpy(low[chosen])].sum(0)
        else:
            signs = np.zeros(len(h))
            signs[chosen] = high[chosen].astype(int) - low[chosen].astype(int)
            raw = captums_grad_cam(encoder, image, torch.from_numpy(signs).float(), layer)
        core = load_masks(datasets.load(place, "photos")).read(sample_id, (32, 32), 32, 32)["core"][None]
        assert low[chosen].any()
        wanted = float(mask_iou(finish(raw[None], (32, 32)), core)[0])
        assert looks.loc[sample_id, "core_iou_map"] == pytest.approx(wanted, abs=1e-5)


def captums_grad_cam(encoder, image, signs, layer):
    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = encoder.backbone

        def forward(self, x):
            return (self.backbone(x) * signs).sum(1)

    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.spec.input.mean, encoder.spec.input.std))
    x = ((image.float() / 255 - mean) / std).requires_grad_()
    net = Summed()
    return LayerGradCam(net, net.backbone.get_submodule(layer)).attribute(x, relu_attributions=True)[0, 0].detach()


@pytest.mark.parametrize("protocol", ["lbfgs", "sgd100"])
def test_train_masks_are_judged_out_of_fold(place, workspace, tmp_path, protocol):
    """Where the probe has no L2 (sgd100), each fold chooses one."""
    import shutil

    if protocol == "sgd100":
        probe(ProbeSettings(dataset="photos", encoder="tiny", protocol=protocol), place, Progress())
        score(ScoreSettings(dataset="photos", encoder="tiny"), place, Progress())

    shutil.rmtree(tmp_path / "masks/core/test")
    dataset = datasets.load(workspace, "photos")
    add_masks(dataset, tmp_path / "masks")
    summary = run(place)
    assert (summary["judged_on"], summary["n"]) == ("train", 24)
    assert any("out-of-fold" in note for note in summary["notes"])
    looks = latest_result(place.results("photos", "tiny", "interpret")).table("looks").set_index("sample_id")["correct"]
    embedded = open_embedded(workspace, "photos", "tiny")
    train = embedded.samples[embedded.samples["split"] == "train"]
    l2 = latest_result(place.results("photos", "tiny", "probe")).content["summary"]["l2"] if protocol == "lbfgs" else None
    said, *_ = out_of_fold(embedded.store.read(train["row"].to_numpy()), train["label"].to_numpy(), l2, seed=0)
    wanted = dict(zip(train["sample_id"], said == train["label"].to_numpy(), strict=True))
    assert looks.to_dict() == wanted
    assert not all(wanted.values())  # an in-sample probe would be right everywhere


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
            # blocks of 8 pixels are of one colour here: JPEG keeps them
            Image.fromarray(picture).save(images / "train" / wnid / f"{wnid}_{k}.JPEG", quality=95, subsampling=0)
            for feature, mask in (("11", core), ("12", spurious)):
                if feature == "12" and k % 2:
                    continue  # half of them have a core mask only
                path = root / "salient_imagenet_dataset" / wnid / f"feature_{feature}" / f"{wnid}_{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(path, quality=95)
        listed = [f"{k},{wnid}_{k},{f'{wnid}_{k}' if k % 2 == 0 else ''}" for k in range(10)]
        (root / "salient_imagenet_dataset" / wnid / "image_names_map.csv").write_text("\n".join([",11,12", *listed]))
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
    assert (on_core["spurious_iou_map"].dropna() == 0).all()
    off = looks.drop(on_core.index)
    assert (off["core_iou_map"] < 0.1).all()
    # where map and mask part lies half a place (28 px) deep at most; beyond the centres of the outer places the map goes on
    centres = (np.arange(224) + 0.5) / 56 - 0.5
    columns = np.interp(centres, range(4), [1, 1, 0, 0])
    for row in range(3):
        heat = np.outer(np.interp(centres, range(4), np.eye(4)[row]), columns)
        heat /= heat.max()
        hot, marked = heat >= 0.5, np.zeros((224, 224), bool)
        marked[56 * row : 56 * (row + 1), :112] = True
        own = on_core[on_core.index.str.contains(f"n0000000{row + 1}")]
        assert len(own) == 8
        assert_allclose(own["core_iou_map"], heat[hot & marked].sum() / heat[hot | marked].sum(), atol=2e-3)
        assert_allclose(own["core_area_iou_map"], (hot & marked).sum() / (hot | marked).sum(), atol=2e-3)
    with_both = off[[int(i.rsplit("_", 1)[1].split(".")[0]) == 8 for i in off.index]]
    assert (with_both["spurious_area_iou_map"] > 0.75).all()
    none = looks[[int(i.rsplit("_", 1)[1].split(".")[0]) % 2 == 1 for i in looks.index]]
    assert none["spurious_iou_map"].isna().all()  # no spurious mask there: nobody looked, that is not a 0
    assert summary["n_with_spurious"] == 15
    assert {g["n"] for g in summary["groups"] if (g["kind"], g["group"]) == ("spurious", "all")} == {15}
    table = latest_result(workspace.results("imagenet", "tiny", "interpret")).table("features").set_index("feature")
    assert table.loc[[0, 2, 4], "name"].tolist() == ["part 0", "part 1", "part 2"]
    assert table.loc[[0, 2, 4], "support"].tolist() == [8, 8, 8]
    assert_allclose(table.loc[[0, 2, 4], "core"], 1, atol=1e-6)
    assert_allclose(table.loc[[1, 3, 5], "core"], 0, atol=1e-6)
    assert table.loc[[0, 2, 4], "n"].tolist() == [8, 8, 8]
    assert summary["masks"]["both"] == 15
    assert looks["correct"].notna().all()


def test_the_command_prints_each_mask_beside_what_knows_nothing(place, capsys, monkeypatch):
    monkeypatch.setattr(results, "out", Console(width=300))
    summary = run(place)
    results.print_result("interpret", summary, place)
    said = " ".join(capsys.readouterr().out.split())
    assert f"Mean IoU of heatmaps (activation, layer {summary['layer']}" in said
    shown = {(g["who"], f"{g['mean']:.3f}") for g in summary["groups"] if g["metric"] == "iou" and g["mean"] is not None}
    assert {who for who, _ in shown} == {"map", "blob", "uniform", "shuffled", "ceiling"}
    assert all(number in said for _, number in shown)
    assert all(f"{gap['what']}, {gap['of']}: {gap['mean']:+.3f}" in said for gap in summary["differences"])
