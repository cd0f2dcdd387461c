"""The heatmaps page, and heat on the sample and feature pages: what a person reads."""

import asyncio
import io
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from starlette.requests import Request

from sslviz import explain
from sslviz.data import dataset as datasets
from sslviz.data.loading import read_picture
from sslviz.data.masks import add_masks
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import save_encoder
from sslviz.errors import SslvizError
from sslviz.heatmaps import finish
from sslviz.jobs import runner
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.inputs import result_state
from sslviz.jobs.interpret import InterpretSettings, interpret
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.files import read_json, write_json
from sslviz.store.results import latest_result
from sslviz.ui import server
from sslviz.ui.figures import interpret as figures
from sslviz.ui.overlays import blend, cut_out, heat_file
from sslviz.ui.widgets import plain
from tests.data.test_masks import blob, put
from tests.inputs import small_encoder
from tests.pages.conftest import text
from tests.pages.test_pages import shown_cards


@pytest.fixture
def masked(scored, workspace, tmp_path):
    for split, n in (("train", 10), ("val", 6)):
        for c in ("disc", "ring"):
            for i in range(n):
                put(tmp_path / f"masks/core/{split}/{c}/{i:03d}.png", blob(i, 32, 32))
    return add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")


def test_empty_workspace(app):
    assert "There is no data set in this workspace yet" in text(app("heatmaps"))


def test_without_masks_the_page_says_how_to_add_them(app, scored, tmp_path):
    test = app("heatmaps")
    assert "has no masks" in text(test)
    assert any("--masks" in block.value for block in test.code)


def test_an_encoder_without_maps_is_offered_none(app, masked, workspace):
    spec = load_spec(workspace, "tiny")
    pixels = {"name": "pixels", "backbone": "pixels", "architecture": {"size": 8}, "feature_dim": 192}
    pixels["input"] = spec.input.model_copy(update={"size": 8, "resize": 8})
    save_encoder(workspace, spec.model_copy(update=pixels), {})
    embed(EmbedSettings(dataset="photos", encoder="pixels"), workspace, Progress())
    score(ScoreSettings(dataset="photos", encoder="pixels"), workspace, Progress())
    assert "This encoder has no layer with maps." in text(app("heatmaps", encoder="pixels"))
    assert "has no layer with maps" in text(app(encoder="pixels"))
    assert not any(b.key == "start-interpret" for b in app(encoder="pixels").button)


def test_a_button_makes_the_heatmaps(app, masked, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("heatmaps")
    next(b for b in test.button if b.label == "Make the heatmaps").click().run()
    (run,) = runner.list_runs(workspace)
    assert (run["job"], run["settings"]["encoder"]) == ("interpret", "tiny")


def test_heatmaps_are_made_in_another_way_from_a_form(app, masked, workspace, monkeypatch):
    interpret(InterpretSettings(dataset="photos", encoder="tiny", threshold=0.4), workspace, Progress())
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("heatmaps")
    assert plain("Those above: method auto, threshold 0.4, mask threshold 0.5, signed False.") in text(test)
    test.selectbox(key="interpret-set-method").set_value("gradcam").run()
    test.text_input(key="interpret-set-threshold").set_value("0.6").run()
    test.button(key="interpret-otherwise").click().run()
    (run,) = runner.list_runs(workspace)
    assert {run["settings"][k] for k in ("method", "threshold")} == {"gradcam", 0.6}
    test = app("heatmaps")
    assert test.button(key="interpret-otherwise").disabled
    test.text_input(key="interpret-set-threshold").set_value("2").run()
    assert "threshold" in test.error[0].value


def test_a_feature_says_where_it_looks_and_what_workers_called_it(app, masked, workspace):
    interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    result = latest_result(workspace.results("photos", "tiny", "interpret"))
    table = result.table("features")
    line = table.iloc[0]
    names = table["name"].where(table["feature"] != line["feature"], "fur <b>")
    changes = {"name": names, "overlap": 0.45, "support": 7}
    table.assign(**changes).to_parquet(result.folder / "features.parquet")
    said = text(app("features", feature=str(line["feature"])))
    assert f"**{100 * line['core']:.0f} %** of its heatmaps lies on the object" in said
    assert f"the object fills {100 * line['core_area']:.0f} % of them" in said
    assert "overlaps most **fur \\<b\\>** (45 % of its heatmaps, over 7 images)" in said
    other = text(app("features", feature=str(table["feature"].iloc[1])))
    assert "of its heatmaps lies on the object" in other
    assert "Annotators call" not in other


def test_of_few_images_right_and_wrong_are_not_compared(app, masked, workspace):
    summary = interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert 0 < min(summary["n_correct"], summary["n_wrong"]) < 10
    words = text(app("heatmaps"))
    assert "fewer than ten: too few to compare them" in words
    assert "less those it gets wrong" not in words


def test_the_page_says_what_the_job_says(app, masked, workspace, monkeypatch):
    monkeypatch.setattr("sslviz.analysis.looks._LEAST_IMAGES", 1)
    summary = interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app("heatmaps")
    mean = {(g["kind"], g["who"]): g["mean"] for g in summary["groups"] if g["metric"] == "iou" and g["group"] == "all"}
    words = text(test)
    assert f"overlap the object with a mean IoU of **{mean['core', 'map']:.2f}**" in words
    gaps = {(d["what"], d["of"]): d for d in summary["differences"]}
    low, high = gaps["core - blob", "all"]["interval"]
    beside = "more than" if low > 0 else "less than" if high < 0 else "as much as"
    assert f"**{beside} a blob in the middle of every picture would** ({mean['core', 'blob']:.2f})" in words
    gap, beyond = (gaps[what, "core"] for what in ("correct - wrong", "correct - wrong, beyond the blob"))
    low, high = beyond["interval"]
    assert f"less those it gets wrong: {gap['mean']:+z.2f} (95 %" in words
    assert (
        f"this difference is {gap['mean'] - beyond['mean']:+z.2f}, by the objects' size and place alone. "
        f"What is left, {beyond['mean']:+z.2f}" in words
    )
    how = "more than" if low > 0 else "less than" if high < 0 else "not distinguishable from"
    assert f"**{how} zero**" in words
    assert f"Another image's heatmap reaches {mean['core', 'shuffled']:.2f}" in words
    assert f"the mask itself, reduced to the heatmaps' 8 x 8 resolution, {mean['core', 'ceiling']:.2f}" in words
    figures = {m.label: m.value for m in test.metric}
    assert figures["Right"] == str(summary["n_correct"])
    assert figures["Wrong"] == str(summary["n_wrong"])
    assert len(test.get("plotly_chart")) == 3
    for metric in ("area_iou", "pointing", "mass"):
        test.segmented_control(key="interpret-metric").set_value(metric).run()
        assert not test.exception
    looks = latest_result(workspace.results("photos", "tiny", "interpret")).table("looks")
    test.selectbox(key="interpret-order").set_value("highest first").run()
    order = looks.sort_values(["core_iou_map", "sample_id"], ascending=[False, True])["sample_id"].tolist()
    assert test.session_state["sequence"] == order
    wrong = looks.loc[looks["correct"].eq(False), "sample_id"]
    test.selectbox(key="interpret-show").set_value("misclassified").run()
    assert set(test.session_state["sequence"]) == set(wrong) if len(wrong) else "No image fits" in text(test)


def test_stale_heatmaps_are_said_to_be(app, masked, workspace, tmp_path):
    interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    put(tmp_path / "masks/core/val/disc/000.png", ~blob(0, 32, 32))
    add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")
    assert "**Stale heatmaps**: masks have changed since" in text(app("heatmaps"))


def test_a_damage_check_makes_no_heatmaps_stale_but_another_eps_does(masked, workspace):
    interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    for options, state in (({"damage": 4}, "fresh"), ({"eps": 0.5}, "stale"), ({}, "fresh")):
        score(ScoreSettings(dataset="photos", encoder="tiny", **options), workspace, Progress())
        assert result_state(workspace, datasets.load(workspace, "photos"), "tiny", "interpret")[0] == state


def test_again_is_made_as_before(app, masked, workspace, tmp_path, monkeypatch):
    settings = InterpretSettings(dataset="photos", encoder="tiny", threshold=0.6, mask_threshold=0.9, signed=True)
    interpret(settings, workspace, Progress())
    put(tmp_path / "masks/core/val/disc/000.png", ~blob(0, 32, 32))
    add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    shown, drawn = [], figures.thresholds
    monkeypatch.setattr(
        figures, "thresholds", lambda curve: shown.append(curve["mask_threshold"].unique().item()) or drawn(curve)
    )
    test = app("heatmaps")
    assert "negated (signed, ours)" in text(test).replace("\\", "")
    assert shown[-1] == 0.75  # the nearest that is drawn
    test.segmented_control(key="interpret-mask-threshold").set_value(0.25).run()
    assert shown[-1] == 0.25
    next(b for b in test.button if b.label == "Make the heatmaps again").click().run()
    (run,) = runner.list_runs(workspace)
    assert {k: run["settings"][k] for k in ("threshold", "mask_threshold", "signed")} == {
        "threshold": 0.6,
        "mask_threshold": 0.9,
        "signed": True,
    }


def test_masks_that_change_on_disk_make_it_stale(app, masked, workspace, tmp_path):
    interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert "Stale heatmaps" not in text(app("heatmaps"))
    put(tmp_path / "masks/core/val/disc/000.png", ~blob(0, 32, 32))
    assert "**Stale heatmaps**: masks have changed since" in text(app("heatmaps"))


def test_a_mask_that_does_not_fit_hides_no_heat(app, masked, workspace, tmp_path):
    put(tmp_path / "masks/core/val/disc/000.png", blob(0, 32, 20))
    add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")
    test = app("sample", sample="val/disc/000.png")
    assert "Without its masks: mask core/val/disc/000.png is 32 x 20" in text(test).replace("\\", "")
    assert "Hiding the hottest fifth of the picture lowers" in text(test)


def test_a_features_pictures_are_under_its_own_map(app, masked, workspace, monkeypatch):
    from sslviz.ui import heat, overlays

    seen = []
    blend = overlays.blend
    monkeypatch.setattr(overlays, "blend", lambda pixels, map_, *rest: seen.append(map_) or blend(pixels, map_, *rest))
    app("features", feature="3")
    examples = latest_result(workspace.results("photos", "tiny", "score")).table("feature_examples")
    top = examples.query("feature == 3 and kind == 'top'").sort_values("rank")["sample_id"].tolist()
    root, encoder = datasets.load(workspace, "photos").root, load_encoder(workspace, "tiny")
    images = torch.stack([read_picture(root / s, 32, 32).pixels for s in top])
    np.testing.assert_allclose(np.stack(seen), explain(encoder, images, [3]).numpy(), atol=1e-5)
    assert heat._HIDDEN == 0.2  # "the hottest fifth"


def test_bars_are_the_heatmaps_own():
    groups = pd.DataFrame(
        [
            {"kind": kind, "group": "all", "who": who, "mean": mean, "low": mean - 0.1, "high": mean + 0.2}
            for kind, mean0 in (("core", 0.5), ("spurious", 0.3))
            for who, mean in (("map", mean0), ("blob", 0.9), ("uniform", 0.8), ("shuffled", 0.7), ("ceiling", 0.6))
        ]
    )
    bars, *marks = figures.overlap(groups, "IoU").data
    assert list(bars.y) == [0.5, 0.3]
    np.testing.assert_allclose(bars.error_y.array, 0.2)
    np.testing.assert_allclose(bars.error_y.arrayminus, 0.1)
    assert [list(mark.y) for mark in marks] == [[0.9] * 2, [0.8] * 2, [0.7] * 2, [0.6] * 2]


def test_heat_on_the_sample_page(app, masked):
    test = app("sample", sample="val/disc/000.png")
    assert "Where the encoder looks" in [s.value for s in test.subheader]
    words = text(test)
    assert "activation maps, layer expand (8 x 8). Exact: the features are the means of these maps." in words.replace("\\", "")
    assert "Hiding the hottest fifth of the picture lowers" in words
    y, x = (np.mgrid[0:32, 0:32] + 0.5) / 32 - 0.5  # of any map: a Gaussian of a quarter of the side, by hand
    middle = np.exp(-(x**2 + y**2) / (2 * 0.25**2))
    middle /= middle.max()
    mask, hot = blob(0, 32, 32), middle >= 0.5
    base = middle[hot & mask].sum() / middle[hot | mask].sum()
    assert re.search(rf"\*\*core\*\* 0\.\d\d \(a blob in the middle: {base:.2f}\)", words)
    assert "The mask itself, as a map of this size, reaches" in words
    select = next(s for s in test.selectbox if s.label == "Features")
    assert select.value is None
    test.button(key="heat-next").click().run()
    one = next(s for s in test.selectbox if s.label == "Features").value
    assert isinstance(one, int)
    assert len(next(s for s in test.selectbox if s.label == "Features").options) == 1 + 32  # any feature, firing or not
    last = next(s for s in test.selectbox if s.label == "Features").options[-1]
    assert last.endswith("does not fire)")
    next(s for s in test.selectbox if s.label == "Features").select_index(32).run()
    assert not test.exception
    next(s for s in test.selectbox if s.label == "Features").select_index(1).run()
    test.button(key="heat-before").click().run()
    assert next(s for s in test.selectbox if s.label == "Features").value is None
    test.segmented_control(key="heat-method").set_value("gradcam").run()
    assert not test.exception
    test.selectbox(key="heat-layer").set_value("layer2").run()
    assert "Grad-CAM, layer layer2 (16 x 16)" in text(test).replace("\\", "")
    test.segmented_control(key="heat-method").set_value("integrated_gradients").run()
    assert not test.exception
    assert "integrated gradients." in text(test)


def test_masks_come_in_through_the_data_page(app, scored, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    put(tmp_path / "masks/core/val/disc/000.png", blob(0, 32, 32))
    test = app("data")
    test.text_input(key="masks-folder").set_value("/etc").run()
    test.button(key="masks-add").click().run()
    assert "lies outside the folders" in text(test)
    test.text_input(key="masks-folder").set_value(str(tmp_path / "masks")).run()
    test.button(key="masks-add").click().run()
    assert "1 core and 0 spurious masks" in text(test)
    test = app("data")
    assert "1 core, 0 spurious" in test.dataframe[1].value["masks"].tolist()


def test_the_picture_of_a_row_is_its_own_under_its_own_map(masked, workspace, tmp_path):
    interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    maps = latest_result(workspace.results("photos", "tiny", "interpret")).table("maps").set_index("sample_id")["map"]
    sample_id = max(maps.index, key=lambda i: max(maps[i]))
    samples = datasets.load(workspace, "photos").samples
    row = int(samples.index[samples["sample_id"] == sample_id][0])
    heat = finish(torch.tensor(np.array(maps[sample_id]).reshape(1, 8, 8)), (32, 32))[0].numpy()
    pixels = np.asarray(Image.open(tmp_path / "photos" / sample_id))
    light = np.array([252, 255, 164])  # the hot end of Inferno
    hot = np.unravel_index(heat.argmax(), heat.shape)
    wanted = blend(pixels, heat)
    assert np.abs(wanted[hot] - (0.3 * pixels[hot] + 0.7 * light)).max() <= 2
    assert_array_equal(wanted[heat == 0], pixels[heat == 0])
    shown = Image.open(io.BytesIO(heat_file("photos", "tiny", row))).resize((32, 32), Image.Resampling.BOX)
    assert np.abs(np.asarray(shown).astype(float) - wanted).mean() < 6
    assert np.abs(np.asarray(shown).astype(float) - pixels).mean() > 12
    for wrong in (("photos", "tiny", 999), ("photos", "nobody", 0), ("photos", "tiny", 0)):  # row 0 is a train image
        with pytest.raises(SslvizError):
            heat_file(*wrong)


@pytest.fixture
def two(masked, workspace):
    """Heatmaps of the same images by `tiny` and by `other`."""
    small_encoder(workspace, "other", seed=5)
    embed(EmbedSettings(dataset="photos", encoder="other"), workspace, Progress())
    score(ScoreSettings(dataset="photos", encoder="other"), workspace, Progress())
    for encoder in ("tiny", "other"):
        interpret(InterpretSettings(dataset="photos", encoder=encoder), workspace, Progress())


def test_a_picture_stands_beside_its_heat_its_mask_and_another_encoders_heat(two, workspace, tmp_path):
    """Panel by panel against the picture and the mask as they lie on disk."""
    maps = {
        encoder: latest_result(workspace.results("photos", encoder, "interpret")).table("maps").set_index("sample_id")["map"]
        for encoder in ("tiny", "other")
    }
    sample_id = max(maps["tiny"].index, key=lambda i: min(max(maps["tiny"][i]), max(maps["other"][i])))
    samples = datasets.load(workspace, "photos").samples
    row = int(samples.index[samples["sample_id"] == sample_id][0])
    whole = Image.open(io.BytesIO(heat_file("photos", "tiny", row, strip=True, beside="other", side=128)))
    assert whole.size == (5 * 128, 128)
    panels = [whole.crop((k * 128, 0, k * 128 + 128, 128)).resize((32, 32), Image.Resampling.BOX) for k in range(5)]
    shown = [np.asarray(panel).astype(float) for panel in panels]
    picture = np.asarray(Image.open(tmp_path / "photos" / sample_id)).astype(float)
    raw = {encoder: torch.tensor(np.array(found[sample_id]).reshape(1, 8, 8)) for encoder, found in maps.items()}
    heats = {encoder: finish(found, (32, 32))[0].numpy() for encoder, found in raw.items()}
    assert min(heat.max() for heat in heats.values()) == 1
    mask = np.asarray(Image.open(tmp_path / "masks/core" / sample_id)) >= 128
    wanted = [
        picture,
        blend(picture, heats["tiny"]),
        np.where(mask[..., None], picture, picture / 8),
        np.where(mask[..., None], picture / 8, picture),
        blend(picture, heats["other"]),
    ]
    for found, right in zip(shown, wanted, strict=True):
        apart = [np.abs(found - each).mean() for each in wanted]
        assert np.abs(found - right).mean() == min(apart) < 8
    assert Image.open(io.BytesIO(heat_file("photos", "tiny", row, strip=True, side=32))).size == (4 * 32, 32)
    assert (cut_out(picture.astype(np.uint8), None) == 128).all()
    with pytest.raises(SslvizError, match="by nobody"):
        heat_file("photos", "tiny", row, strip=True, beside="nobody")


def test_the_server_gives_what_its_address_asks_for(two, workspace):
    def answer(query):
        scope = {
            "type": "http",
            "query_string": query.encode(),
            "path_params": {"dataset": "photos", "encoder": "tiny", "row": row},
        }
        with ThreadPoolExecutor(1) as other:  # Chromium's tests may have left a loop in this thread
            body = other.submit(lambda: asyncio.run(server._heat(Request(scope))).body).result()
        return Image.open(io.BytesIO(body)).size

    samples = datasets.load(workspace, "photos").samples
    row = int(samples.index[samples["split"] == "val"][0])
    assert answer("") == (192, 192)
    assert answer("strip=1&beside=") == (4 * 192, 192)
    assert answer("strip=1&beside=other") == (5 * 192, 192)


def test_only_heatmaps_of_today_stand_beside(app, two, workspace):
    path = latest_result(workspace.results("photos", "other", "interpret")).folder / "result.json"
    content = read_json(path)
    write_json(path, {**content, "inputs": {**content["inputs"], "embeddings": "others"}})
    test = app("heatmaps", dataset="photos", encoder="tiny")
    test.segmented_control(key="interpret-as").set_value("side by side").run()
    assert not any(s.key == "interpret-beside" for s in test.selectbox)


def test_only_heatmaps_made_alike_stand_beside(app, two, workspace):
    interpret(InterpretSettings(dataset="photos", encoder="other", threshold=0.7), workspace, Progress())
    test = app("heatmaps", dataset="photos", encoder="tiny")
    test.segmented_control(key="interpret-as").set_value("side by side").run()
    assert not any(s.key == "interpret-beside" for s in test.selectbox)


def test_the_gallery_shows_pictures_side_by_side(app, two, workspace, monkeypatch):
    test = app("heatmaps", dataset="photos", encoder="tiny")
    shown = shown_cards(monkeypatch)
    test.segmented_control(key="interpret-as").set_value("side by side").run()
    assert all("strip=1" in item["url"] for item in shown)
    assert "From left: the picture; under the heat of tiny; what counts as the object; as its surroundings." in text(
        test
    ).replace("\\", "")
    shown.clear()
    test.selectbox(key="interpret-beside").set_value("other").run()
    assert "as its surroundings; under the heat of other." in text(test).replace("\\", "")
    of = {
        e: latest_result(workspace.results("photos", e, "interpret")).table("looks").set_index("sample_id")
        for e in ("tiny", "other")
    }
    assert len(shown) == 12
    for item in shown:
        assert "beside=other" in item["url"]
        mine, theirs = (of[e].loc[item["id"], "core_iou_map"] for e in ("tiny", "other"))
        assert item["detail"].startswith(f"overlap {mine:.3f}, other {theirs:.3f}")


def test_a_features_images_are_its_strongest_under_its_map(app, masked, workspace, tmp_path):
    test = app("features", feature="3")
    assert "Strongest in, with heatmaps" in text(test)
    assert not test.exception
    for path in (tmp_path / "photos").rglob("*.png"):
        path.write_bytes(b"gone")
    assert not app("features", feature="3").exception


def test_train_masks_are_shown_by_the_folds_answers(app, scored, workspace, tmp_path, monkeypatch):
    for c in ("disc", "ring"):
        for i in range(10):
            put(tmp_path / f"masks/core/train/{c}/{i:03d}.png", blob(i, 32, 32))
    add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")
    summary = interpret(InterpretSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app("heatmaps")
    shown = shown_cards(monkeypatch)
    test.selectbox(key="interpret-show").set_value("misclassified").run()
    assert len(test.session_state["sequence"]) == summary["n_wrong"] > 0
    assert shown
    assert not any("nan" in item["detail"] + item["alt"] for item in shown)  # what the folds said is not kept
