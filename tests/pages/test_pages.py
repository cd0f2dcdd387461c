"""Every page, empty, full and stale: what a person reads there."""

import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from streamlit.testing.v1 import AppTest

from sslviz.analysis.rivals import RIVALS
from sslviz.data import dataset as datasets
from sslviz.data.masks import add_masks
from sslviz.jobs import runner
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.compress import CompressSettings, compress
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.files import read_json, write_json
from sslviz.store.results import latest_result
from sslviz.ui import pictures, selection, widgets
from tests.data.test_masks import blob, put
from tests.inputs import SmallResNet, folder, picture, small_encoder
from tests.pages.conftest import text

PAGES = ["overview", "scores", "sample"]


def shown_cards(monkeypatch):
    """What every grid of pictures is given, in their order."""
    items, cards = [], widgets.cards
    monkeypatch.setattr(widgets, "cards", lambda given, *rest, **more: items.extend(given) or cards(given, *rest, **more))
    return items


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_workspace_says_where_to_begin(app, page):
    test = app(page)
    assert "There is no data set in this workspace yet" in text(test)


def test_the_demo_can_be_had_from_an_empty_page(app, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app()
    test.button(key="start-demo").click().run()
    (run,) = runner.list_runs(workspace)
    assert run["job"] == "demo"
    assert "The demo is being prepared" in text(test)
    write_json(
        workspace.run(run["id"]) / "state.json", {"status": "failed", "error": "the disk is full", "launched": 1, "updated": 2}
    )
    test.run()
    assert "The demo is being prepared" not in text(test)
    assert "the disk is full" in text(test)


def test_files_that_were_left_out_are_listed(app, photos, workspace):
    (photos / "train/disc/000.png").write_bytes(b"<html>")
    analyze(AnalyzeSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app()
    assert [e.label for e in test.expander if "left out" in e.label] == ["1 file left out"]
    table = next(d.value for d in test.dataframe if "error" in d.value)
    assert table["sample_id"].tolist() == ["train/disc/000.png"]
    assert "HTML page" in table["error"][0]


@pytest.mark.parametrize(
    "damaged", ["encoders/tiny/encoder.json", "datasets/photos/dataset.json", "scores.parquet", "result.json"]
)
def test_a_damaged_file_is_a_sentence_and_the_data_page_stays(app, scored, workspace, damaged):
    results = latest_result(workspace.results("photos", "tiny", "score")).folder
    path = (workspace.root if "/" in damaged else results) / damaged
    assert path.exists()
    path.write_text('{"cut off')
    assert re.search(rf"{path.stem}.*is damaged", text(app())) or damaged == "result.json"  # which then counts as none
    data = app("data")
    shown = pd.concat([frame.value.astype(str) for frame in data.dataframe[-2:]]).to_string()
    assert ("is damaged" in shown) == (damaged.count("/") > 0)


def test_what_was_removed_meanwhile_is_said(app, scored, workspace):
    small_encoder(workspace, "other", seed=5)
    test = app(encoder="tiny")
    assert test.selectbox(key="encoder").value == "tiny"
    for name in ("tiny", "other"):
        shutil.rmtree(workspace.encoder(name))
        test.run()
        assert not test.exception
        if name == "tiny":
            assert "Encoder tiny is no longer here; this is other." in text(test)
            small_encoder(workspace, "third", seed=6)
            test.run()
            for chosen in ("third", "other"):
                test.selectbox(key="encoder").set_value(chosen).run()
                assert "is no longer here" not in text(test)
            shutil.rmtree(workspace.encoder("third"))
    assert "There is no encoder in this workspace yet" in text(test)


def test_a_grid_is_where_it_was_left_and_begins_anew_when_its_order_changes():
    def page():
        import pandas as pd
        import streamlit as st

        from sslviz.ui import widgets

        table = pd.DataFrame({"sample_id": [str(k) for k in range(10)][:: st.session_state.get("step", 1)]})
        if st.session_state.get("here", True):
            st.text(",".join(widgets.paged(table, 4, "grid")["sample_id"]))

    test = AppTest.from_function(page).run()
    test.number_input(key="grid").set_value(3).run()
    assert test.text[0].value == "8,9"
    for here in (False, True):
        test.session_state["here"] = here
        test.run()
    assert test.text[0].value == "8,9"
    test.session_state["step"] = -1
    test.run()
    assert test.text[0].value == "9,8,7,6"


def test_empty_data_and_runs_pages(app):
    assert "No data set yet. Name a folder of images above." in text(app("data"))
    assert "Nothing has run in this workspace yet." in text(app("runs"))


def test_before_the_first_score_one_button_does_it_all(app, photos, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app()
    assert "32 images, no Q-Scores yet" in text(test)
    assert "**Embeddings**: missing" in text(test)
    next(b for b in test.button if b.label == "Analyze").click().run()
    assert [r["job"] for r in runner.list_runs(workspace)] == ["analyze"]
    assert not any(b.label == "Analyze" for b in test.button)  # while it runs there is nothing more to start
    assert next(b for b in test.button if b.label == "Embed").disabled
    from sslviz.jobs.analyze import AnalyzeSettings

    second = runner.launch("analyze", AnalyzeSettings(dataset="photos", encoder="tiny"), workspace)  # another tab's click
    assert second[1] == "joined"


def test_a_box_that_draws_itself_anew_leaves_no_hole_in_a_page_that_was_not_sent_yet(app, photos, monkeypatch):
    """Streamlit drops a fragment's waiting elements when the fragment runs: the page's own must stay without a gap."""
    from streamlit.runtime.forward_msg_queue import ForwardMsgQueue
    from streamlit.testing.v1 import local_script_runner

    sent = []
    parse = local_script_runner.parse_tree_from_messages
    monkeypatch.setattr(local_script_runner, "parse_tree_from_messages", lambda found: sent.append(list(found)) or parse(found))
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app()
    next(b for b in test.button if b.label == "Analyze").click().run()
    fragments = {m.delta.fragment_id for m in sent[-1] if m.WhichOneof("type") == "delta"} - {""}
    assert len(fragments) == 1
    waiting = ForwardMsgQueue()
    for message in sent[-1]:
        waiting.enqueue(message)
    waiting.clear(retain_lifecycle_msgs=True, fragment_ids_this_run=list(fragments))
    kept = [tuple(m.metadata.delta_path) for m in waiting.flush() if m.WhichOneof("type") == "delta"]
    there = set(kept)
    assert len(kept) > 10
    for path in kept:
        assert all((*path[:-1], k) in there for k in range(path[-1])), path


@pytest.mark.parametrize("page", ["scores", "sample"])
def test_pages_without_scores_lead_to_the_overview(app, photos, page):
    assert "No Q-Scores yet for this data set and encoder." in text(app(page))


def test_overview_shows_the_commands_numbers(app, scored, workspace):
    test = app()
    values = {m.label: m.value for m in test.metric}
    q = scored["reports"]["q"]
    assert values["AUROC of Q"] == f"{100 * q['auroc']:.1f} %"
    assert values["AUPRC of Q"] == f"{100 * q['auprc']:.1f} %"
    assert values["eps in use"] == f"{scored['eps']:g}"
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    zero = scores.groupby("split")["q"].agg(lambda q: (q == 0).mean())
    assert zero["train"] != zero["val"]
    assert (values["Empty sets"], values["RankMe"]) == (f"{100 * zero['val']:.1f} %", f"{scored['rank_me']:.0f}")
    read = text(test)
    assert f"base rate {100 * q['base_rate']:.1f} %" in read
    low, high = q["intervals"]["auroc"]
    assert f"95 %: {100 * low:.1f} to {100 * high:.1f}" in read
    assert read.count(": fresh") == 3


def test_overview_says_what_else_there_is_and_makes_it(app, scored, workspace, monkeypatch):
    def states():
        """What stands below each link."""
        read = [e.proto.label if e.type == "page_link" else getattr(e, "value", "") for e in app().main]
        return {name: read[read.index(f"**{name}**") + 1] for name in ("Compression", "Heatmaps", "Map", "Fine-tuning")}

    assert states() == {"Compression": "missing", "Heatmaps": "needs masks", "Map": "missing", "Fine-tuning": "missing"}
    compress(CompressSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert states()["Compression"] == "fresh"
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app()
    assert [b.label for b in test.button if b.key in {"start-compress", "start-interpret"}] == []
    test.button(key="start-project").click().run()
    (run,) = runner.list_runs(workspace)
    assert (run["job"], run["settings"]["encoder"]) == ("project", "tiny")
    assert test.button(key="start-project").disabled  # one run at a time


def test_heatmaps_are_offered_where_their_scores_are_of_today(app, photos, scored, workspace, tmp_path):
    put(tmp_path / "masks/core/val/disc/000.png", blob(0, 32, 32))
    add_masks(datasets.load(workspace, "photos"), tmp_path / "masks")
    assert not app().button(key="start-interpret").disabled
    path = latest_result(workspace.results("photos", "tiny", "score")).folder / "result.json"
    content = read_json(path)
    write_json(path, {**content, "inputs": {**content["inputs"], "embeddings": "others"}})
    assert app().button(key="start-interpret").disabled


def test_an_embedding_that_was_stopped_is_said(app, photos, workspace):
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    path = workspace.embeddings("photos", "tiny") / "meta.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "fingerprint"})
    assert "begun, and not complete yet" in text(app())


def test_scores_page_has_grid_charts_and_rivals(app, scored):
    test = app("scores", tab="Beside its rivals")
    table = next(d.value for d in test.dataframe if "AUROC" in d.value)
    assert set(table["score"]) >= {"L2 norm of the raw embedding", "Q-Score as in the paper (eps 4, P50 to P95)"}
    line, norm = table.set_index("score").loc["L2 norm of the raw embedding"], scored["reports"]["norm"]
    for column, figure in (
        ("AUROC", "auroc"),
        ("AUPRC", "auprc"),
        ("base rate", "base_rate"),
        ("AUPRC of errors", "auprc_error"),
    ):
        assert line[column] == pytest.approx(100 * norm[figure])
    assert (line["lift"], line["AURC"], line["AUGRC"]) == (norm["lift"], norm["aurc"], norm["augrc"])
    assert len(app("scores", tab="Charts").get("plotly_chart")) == 5
    test = app("scores")
    assert test.get("bidi_component")
    assert not test.get("plotly_chart")  # what is not looked at is not made
    next(s for s in test.selectbox if s.label == "Show").set_value("misclassified").run()
    assert not test.exception
    next(s for s in test.selectbox if s.label == "Sort by").set_value("nn1").run()
    assert not test.exception
    test.multiselect[0].set_value(["ring"]).run()
    assert not test.exception


def test_curves_of_the_scores_that_are_picked(app, scored, workspace):
    test = app("scores", tab="Charts")
    pills = test.button_group(key="charts-scores")
    assert set(pills.options) == {"Q-Score", "Q-Score as in the paper", *(RIVALS[n].title for n in RIVALS)}
    pills.set_value(["q", "nn1"]).run()
    numbers = next(d.value for d in test.dataframe if "true_positive" in d.value and "precision" not in d.value)
    assert set(numbers["score"]) == {"Q-Score", "similarity to the nearest train image"}
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    predictions = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions")[["sample_id", "correct"]]
    judged = scores[scores["split"] == "val"].merge(predictions, on="sample_id")
    curve = numbers[numbers["score"] == "similarity to the nearest train image"]
    area = np.trapezoid(curve["true_positive"], curve["false_positive"])
    assert area == pytest.approx(roc_auc_score(judged["correct"].astype(bool), judged["nn1"]))


def test_classes_are_the_probes_own(app, scored, workspace):
    test = app("scores", tab="Classes")
    probe = latest_result(workspace.results("photos", "tiny", "probe"))
    judged = probe.table("predictions").query("split == 'val'")
    table = next(d.value for d in test.dataframe if "most often taken for" in d.value).set_index("class")
    for name, label in (("disc", 0), ("ring", 1)):
        mine = judged[judged["label"] == label]
        wrong = int((mine["prediction"] != label).sum())
        assert table.loc[name, "top-1"] == pytest.approx(100 * (1 - wrong / 6))
        assert table.loc[name, "images"] == 6
        other = {"disc": "ring", "ring": "disc"}[name]
        assert not wrong or (table.loc[name, "most often taken for"], table.loc[name, "how many"]) == (other, wrong)
    content = probe.content["summary"]
    assert f"**{100 * content['top1']:.1f} %** of 12 val images in 2 classes" in text(test)
    assert f"{100 * content['knn_top1']:.1f} % by a vote" in text(test)


def test_filters_stand_in_the_url_and_are_taken_from_it(app, scored, workspace, monkeypatch):
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    rings = scores[(scores["split"] == "train") & scores["sample_id"].str.contains("/ring/")]
    rings = rings.sort_values(["q", "sample_id"], ascending=[False, True])
    items = shown_cards(monkeypatch)
    test = app("scores", **{"scores-order": "highest first", "scores-split": "train", "scores-classes": "ring"})
    assert test.selectbox(key="scores-order").value == "highest first"
    assert [item["id"] for item in items[-len(rings) :]] == rings["sample_id"].tolist()
    odd = app("scores", **{"scores-order": "sideways"})
    assert odd.selectbox(key="scores-order").value == "lowest first"


def test_filtered_images_become_the_selection(app, scored):
    test = app("scores")
    assert any(b.label == "Select these 12" for b in test.button)  # of val, train is left out
    test.multiselect[0].set_value(["ring"]).run()
    next(b for b in test.button if b.label == "Select these 6").click().run()
    assert "**6 images selected** (filtered among the scores of tiny)" in text(test)


def test_commands_name_the_settings_of_the_numbers(app, scored, workspace):
    score(ScoreSettings(dataset="photos", encoder="tiny", eps=1.5, lower=40, damage=4), workspace, Progress())
    (command,) = (c.value for c in app("scores").code if c.language == "bash")
    assert command == (
        f"sslviz score --dataset photos --encoder tiny --eps 1.5 --lower 40.0 --damage 4 --workspace {workspace.root} --json"
    )
    assert "given; D: P40 to P95" in text(app())


def test_without_labels_the_overview_asks_for_none(app, workspace, tmp_path, monkeypatch):
    shown = shown_cards(monkeypatch)
    folder(tmp_path / "plain", {"": 20})
    datasets.add_folder(workspace, "plain", tmp_path / "plain")
    small_encoder(workspace)
    analyze(AnalyzeSettings(dataset="plain", encoder="tiny"), workspace, Progress())
    test = app()
    assert "needs labels: class folders" in text(test)
    assert not any("probe" in b.label for b in test.button)
    assert [s.value for s in test.subheader] == ["The ten lowest Q-Scores of test"]
    lowest = latest_result(workspace.results("plain", "tiny", "score")).table("scores").sort_values(["q", "sample_id"])
    lowest = lowest[lowest["split"] == "test"]  # as the command says them
    assert [item["id"] for item in shown] == lowest["sample_id"].head(10).tolist()


def test_samples_that_came_in_as_arrays_have_no_pictures(app, workspace, tmp_path, monkeypatch):
    from sslviz.jobs.import_arrays import ImportSettings, import_arrays

    rng = np.random.default_rng(0)
    splits = np.array(["train", "test"] * 20)
    np.savez(tmp_path / "a.npz", h=rng.normal(size=(40, 16)).astype("float32"), labels=np.arange(40) // 2 % 2, splits=splits)
    settings = ImportSettings(file=str(tmp_path / "a.npz"), dataset="rows", encoder="elsewhere")
    import_arrays(settings, workspace, Progress())
    score(ScoreSettings(dataset="rows", encoder="elsewhere"), workspace, Progress())
    shown = shown_cards(monkeypatch)
    app()
    assert len(shown) == 10
    assert {item["url"] for item in shown} == {""}
    shown.clear()
    app("features")
    assert shown
    assert {item["url"] for item in shown} == {""}


def test_an_opened_sample_ends_the_view_of_a_picture_of_ones_own(app, scored):
    test = app("sample")
    test.segmented_control(key="sample-of").set_value("Your own").run()
    assert not test.metric
    test.run()
    assert not test.metric  # until a sample is opened
    test.query_params["sample"] = "val/ring/004.png"
    test.run()
    assert "val/ring/004.png" in text(test)


def test_sample_page_of_a_link_and_the_way_through(app, scored, workspace):
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    predictions = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions")[["sample_id", "correct"]]
    order = scores[scores["split"] == "val"].merge(predictions, on="sample_id").sort_values(["q", "sample_id"])
    ids, wrong = order["sample_id"].tolist(), order.loc[~order["correct"].astype(bool), "sample_id"].tolist()
    test = app("sample")
    first = wrong[0] if wrong else ids[0]  # the page asks why an image failed
    assert first in text(test)
    assert f"{ids.index(first) + 1} of 12" in text(test)
    step = "Next" if first != ids[-1] else "Previous"
    next(b for b in test.button if b.label == step).click().run()
    assert not test.exception
    assert ids[ids.index(first) + (1 if step == "Next" else -1)] in text(test)
    linked = app("sample", sample="val/ring/004.png")
    assert "val/ring/004.png" in text(linked)
    assert {m.label for m in linked.metric} == {"Q-Score", "Percentile", "Firing"}
    assert "has no score here" in text(app("sample", sample="val/ring/none.png"))


def test_an_edited_folder_shows_as_stale_with_its_button(app, scored, photos, workspace):
    os.remove(photos / "train/disc/002.png")
    picture(999).save(photos / "train/disc/zzz.png")
    test = app()
    read = text(test)
    assert "These scores are **stale**: files of the data set came, went or changed" in read
    assert "**Embeddings**: stale" in read
    assert {b.label for b in test.button} >= {"Embed again", "Score again"}
    assert next(b for b in test.button if b.label == "Score again").disabled  # embeddings come first
    assert "**stale**" in text(app("scores"))


def test_wrong_paths_in_the_form_are_one_sentence(app, workspace, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    test = app("data")
    for path, words in ((str(tmp_path / "missing"), "no folder"), ("/etc", "lies outside the folders that may be named")):
        test.text_input(key="form-folder").set_value(path).run()
        next(b for b in test.button if b.label == "Analyze").click().run()
        assert not test.exception
        assert words in " ".join(e.value.replace("\\", "") for e in test.error)
    link = tmp_path / "link"
    link.symlink_to("/etc")
    test.text_input(key="form-folder").set_value(str(link)).run()
    next(b for b in test.button if b.label == "Analyze").click().run()
    assert "lies outside" in " ".join(e.value for e in test.error)
    assert runner.list_runs(workspace) == []


def test_images_and_encoders_can_be_added_alone_and_met_by_what_is_there(app, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    folder(tmp_path / "pets", {"train/disc": 4, "train/ring": 4})
    torch.save(SmallResNet(8, 16).state_dict(), tmp_path / "own.pt")
    test = app("data")
    assert "Register a folder of images first" in text(test)
    test.text_input(key="form-folder").set_value(str(tmp_path / "pets")).run()
    test.button(key="form-add-folder").click().run()
    assert "pets is in the workspace." in text(test)
    assert workspace.datasets() == ["pets"]
    assert "Register a folder of images first" not in text(test)
    test.run()
    test.text_input(key="form-file").set_value(str(tmp_path / "own.pt")).run()
    test.button(key="form-add-encoder").click().run()
    assert "own is in the workspace." in text(test)
    assert runner.list_runs(workspace) == []
    assert test.selectbox(key="dataset").value == "pets"
    assert test.selectbox(key="encoder").value == "own"
    test.run()
    assert "is in the workspace" not in text(test)
    test.selectbox(key="form-images").set_value("pets").run()
    test.selectbox(key="form-encoder").set_value("own").run()
    next(b for b in test.button if b.label == "Analyze").click().run()
    (started,) = runner.list_runs(workspace)
    assert (started["job"], started["settings"]["dataset"], started["settings"]["encoder"]) == ("analyze", "pets", "own")


def test_embeddings_made_elsewhere_come_in_by_their_form(app, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    np.savez(tmp_path / "h.npz", H=np.ones((4, 16), np.float32))
    test = app("data")
    asked = {"file": "/etc/passwd", "dataset": "made", "encoder": "else/where"}
    for key, value in asked.items():
        test.text_input(key=f"arrays-{key}").set_value(value).run()
    for key, value, words in (("file", str(tmp_path / "h.npz"), "lies outside"), ("encoder", "elsewhere", "cannot be used")):
        test.button(key="arrays-take").click().run()
        assert words in text(test)
        test.text_input(key=f"arrays-{key}").set_value(value).run()
    assert runner.list_runs(workspace) == []
    test.button(key="arrays-take").click().run()
    (started,) = runner.list_runs(workspace)
    assert started["settings"] | {"file": "", "dataset": "made", "encoder": "elsewhere"} == started["settings"] | {"file": ""}


def test_wrong_settings_in_the_form_are_one_sentence(app, workspace, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    for eps in ("abc", "nan", "-1", "inf"):
        test = app("data")
        test.text_input(key="set-eps").set_value(eps).run()
        assert not test.exception
        assert any(e.value.replace("\\", "").startswith("eps: expected") for e in test.error)
        assert next(b for b in test.button if b.label == "Analyze").disabled
        assert "In this workspace" in text(test)  # the rest of the page stays
    test = app("data")
    test.text_input(key="form-folder").set_value("   ").run()
    next(b for b in test.button if b.label == "Analyze").click().run()
    assert [e.value for e in test.error] == ["name a folder or file first."]


def test_a_link_names_its_data_set_and_encoder(app, scored, workspace, tmp_path):
    from tests.inputs import folder, small_encoder

    datasets.add_folder(workspace, "another", folder(tmp_path / "another", {"train/a": 2}))
    small_encoder(workspace, "aaa")
    test = app("scores", dataset="photos", encoder="tiny")
    assert (test.selectbox(key="dataset").value, test.selectbox(key="encoder").value) == ("photos", "tiny")
    test.selectbox(key="dataset").set_value("another").run()
    assert test.query_params["dataset"] in ("another", ["another"])
    lost = app("scores", dataset="ghost", encoder="tiny")
    assert "There is no data set ghost here." in text(lost)


@pytest.mark.parametrize(("name", "words"), [("page.pth", "is an HTML page"), ("x" * 300, "File name too long")])
def test_inspecting_a_bad_checkpoint(app, workspace, tmp_path, monkeypatch, name, words):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    (tmp_path / "page.pth").write_text("<html>404</html>")
    test = app("data")
    test.text_input(key="form-file").set_value(str(tmp_path / name)).run()
    next(b for b in test.button if b.label == "Inspect the checkpoint").click().run()
    assert not test.exception
    assert words in " ".join(e.value.replace("\\", "") for e in test.error)


def test_inspecting_a_good_checkpoint(app, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    state = SmallResNet(8, 16).state_dict()
    torch.save({"student": state, "teacher": {k: v + 1 for k, v in state.items()}, "epoch": 7}, tmp_path / "two.pt")
    test = app("data")
    test.selectbox(key="form-encoder").select_index(0).run()
    test.text_input(key="form-file").set_value(str(tmp_path / "two.pt")).run()
    for network, told in (("nosuch", "nosuch"), ("student", "")):
        test.text_input(key="input-network").set_value(network).run()
        next(b for b in test.button if b.label == "Inspect the checkpoint").click().run()
        assert not test.exception
        assert [told in error.value for error in test.error] == [True] * bool(told)
    networks = test.dataframe[0].value  # drawn in the form, before the lists
    assert len(networks) == 2
    assert "epoch 7" in text(test)


def test_masks_that_cannot_be_named_are_one_line(app, photos, workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path))
    test = app("data")
    test.text_input(key="masks-folder").set_value(str(tmp_path / ("x" * 300))).run()
    test.button(key="masks-add").click().run()
    assert not test.exception
    assert "File name too long" in " ".join(e.value for e in test.error)


def test_a_comparison_that_works_on_this_encoder_is_shown_with_its_cancel(app, photos, workspace, monkeypatch):
    from sslviz.jobs.compare import CompareSettings

    monkeypatch.setattr(runner, "_start", lambda *_: None)
    runner.launch("compare", CompareSettings(dataset="photos", encoders=["tiny"]), workspace)
    test = app()
    assert any(b.label == "Cancel" for b in test.button)
    assert not any(b.key == "start-analyze" for b in test.button)


def test_data_sets_by_name_are_brought_in(app, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    monkeypatch.setenv("SSLVIZ_ROOTS", str(tmp_path / "allowed"))
    test = app("data")
    test.selectbox(key="known-entry").set_value("hf:OWNER/NAME").run()
    assert test.button(key="known-take").disabled
    for forbidden in (str(tmp_path), f"{tmp_path}@", f"{tmp_path}@x", "parquet"):
        test.text_input(key="known-hub").set_value(forbidden).run()
        test.button(key="known-take").click().run()
        assert "lies outside the folders" in text(test) or "neither a folder here nor a name" in text(test)
    assert runner.list_runs(workspace) == []
    test.text_input(key="known-hub").set_value("hf:owner/Pictures").run()
    test.button(key="known-take").click().run()
    test = app("data")
    test.selectbox(key="known-entry").set_value("torchvision:STL10").run()
    test.text_input(key="known-name").set_value("mine").run()
    test.button(key="known-take").click().run()
    asked = [(run["job"], run["settings"]["name"], run["settings"]["source"]) for run in runner.list_runs(workspace)]
    assert sorted(asked) == [("import_data", "mine", "torchvision:STL10"), ("import_data", "pictures", "hf:owner/Pictures")]


def test_the_catalogue_offers_what_the_command_lists_and_takes_it_in(app, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("data")
    offered = next(d.value for d in test.dataframe if "recipe" in d.value)
    published = offered[offered["kind"] == "published"].set_index("name")
    assert len(published) == 16
    assert published.loc["swav-2x224", "top-1 %"] == 70.1
    assert published.loc["swav-2x224", "mean / std"].endswith("0.228 0.224 0.225")
    assert published.loc["moco-lightly", "mean / std"].endswith("0.229 0.224 0.225")
    test.selectbox(key="catalogue-entry").set_value("swav-2x224").run()
    test.button(key="catalogue-take").click().run()
    (run,) = runner.list_runs(workspace)
    assert run["job"] == "import_encoder"
    assert (run["settings"]["name"], run["settings"]["source"]) == ("swav-2x224", "swav-2x224")


def test_pre_training_starts_from_its_form(app, photos, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("data")
    test.selectbox(key="pretrain-method").set_value("moco").run()
    test.text_input(key="pretrain-queue_size").set_value("256").run()
    test.number_input(key="pretrain-epochs").set_value(3).run()
    test.button(key="pretrain-start").click().run()
    (run,) = runner.list_runs(workspace)
    wanted = {"dataset": "photos", "method": "moco", "queue_size": 256, "epochs": 3, "momentum": None}
    assert {k: run["settings"][k] for k in wanted} == wanted


def test_a_wrong_setting_of_pre_training_is_one_sentence(app, photos, workspace):
    test = app("data")
    test.text_input(key="pretrain-momentum").set_value("2").run()
    assert any("momentum: expected" in e.value.replace("\\", "") for e in test.error)


def test_runs_page_lists_and_deletes(app, photos, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    from sslviz.jobs.embed import EmbedSettings

    run_id, _ = runner.launch("embed", EmbedSettings(dataset="photos", encoder="tiny"), workspace)
    write_json(workspace.run(run_id) / "state.json", {"status": "failed", "error": "it broke", "launched": 1.0, "updated": 2.0})
    test = app("runs")
    assert test.dataframe[0].value["what happened"].tolist() == ["it broke"]
    assert {b.label for b in test.button} >= {"Try again", "Delete this run"}
    (command,) = (c.value for c in test.code if c.language == "bash")
    assert command == f"sslviz embed --dataset photos --encoder tiny --workspace {workspace.root} --json"
    assert "There is no run gone here" in text(app("runs", run="gone"))
    next(b for b in test.button if b.label == "Delete this run").click().run()
    assert runner.list_runs(workspace) == []


@pytest.mark.parametrize(
    ("verdict", "auroc", "interval", "words"),
    [
        ("predicts", 0.7, [0.65, 0.75], "predicts which images"),
        ("weakly predicts", 0.55, [0.51, 0.59], "weakly predicts which images"),
        ("does not separate here", 0.51, [0.47, 0.55], "does not separate correct from misclassified"),
        ("upside down here", 0.4, [0.35, 0.45], "is upside down here"),
    ],
)
def test_the_pages_words_follow_the_interval(app, scored, workspace, verdict, auroc, interval, words):
    path = latest_result(workspace.results("photos", "tiny", "score")).folder / "result.json"
    content = read_json(path)
    content["summary"]["reports"]["q"] |= {"verdict": verdict, "auroc": auroc, "intervals": {"auroc": interval, "auprc": None}}
    content["summary"]["best_rival"] = None
    write_json(path, content)
    assert words in text(app())
    assert words in text(app("scores"))


def test_a_better_rival_is_said(app, scored, workspace):
    path = latest_result(workspace.results("photos", "tiny", "score")).folder / "result.json"
    content = read_json(path)
    words = "A simpler label-free score is better here: similarity to the nearest train image, AUROC 72.0."
    content["summary"]["best_rival"] = {"name": "nn1", "apart": True, "words": words}
    write_json(path, content)
    assert words in text(app())


def test_names_from_data_are_shown_as_typed(app, workspace, tmp_path):
    from sslviz.data import dataset as datasets
    from sslviz.jobs.embed import EmbedSettings, embed
    from sslviz.jobs.score import ScoreSettings, score
    from sslviz.progress import Progress
    from tests.inputs import folder, small_encoder

    names = ["<b>bold", "*star* _under_", "$\\alpha$", ":red[x]", "nan", "None", "[a](b)"]
    folder(tmp_path / "odd", {f"{s}/{n}": 3 for s in ("train", "val") for n in names})
    datasets.add_folder(workspace, "odd", tmp_path / "odd")
    small_encoder(workspace)
    embed(EmbedSettings(dataset="odd", encoder="tiny"), workspace, Progress())
    score(ScoreSettings(dataset="odd", encoder="tiny"), workspace, Progress())
    assert datasets.load(workspace, "odd").classes == sorted(names)
    test = app("sample", sample="val/*star* _under_/000.png")
    shown = text(test)
    assert r"\*star\* \_under\_" in shown
    assert "*star* _under_" not in shown.replace("\\", "\\\\ ")
    assert not app("scores").exception


def test_nothing_is_shown_as_minus_zero():
    assert widgets.percent(-0.0002) == "0.0 %"
    assert widgets.interval((-0.0002, 0.0123)) == "0.0 to 1.2"
    assert widgets.percent(None) == "–"


def test_a_selection_with_a_name_too_long_is_none(workspace):
    assert selection._read(workspace, "a" * 300) is None


def test_the_table_is_read_once_for_all_pictures(photos, monkeypatch):
    read = []
    load = datasets.load
    monkeypatch.setattr(datasets, "load", lambda *given: read.append(given) or load(*given))
    pictures._read_dataset.cache_clear()
    for row in range(3):
        assert pictures.picture_file("photos", row)[0]
    assert len(read) == 1


def test_what_is_chosen_on_the_overview_goes_along_to_another_page(app, scored, workspace):
    small_encoder(workspace, "other", seed=1)
    test = app()
    assert test.selectbox(key="encoder").value == "tiny"
    test.selectbox(key="encoder").set_value("other").run()
    test.switch_page("pages/scores.py")
    for _ in range(2):
        test.run()
    assert test.selectbox(key="encoder").value == "other"
    assert "No Q-Scores yet for this data set and encoder" in text(test)
