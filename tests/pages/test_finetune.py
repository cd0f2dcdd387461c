"""The fine-tune page: form, checks, a run's curves, and before and after, as a person reads them."""

import shutil

import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, save_encoder
from sslviz.jobs import runner
from sslviz.jobs.finetune import FinetuneSettings
from sslviz.store.files import read_json, write_json, write_table
from sslviz.store.results import latest_result
from sslviz.ui.finetune import before_and_after
from sslviz.ui.frame import PAGES
from tests.jobs.test_finetune import SETTINGS, prepared, run
from tests.pages.conftest import text


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    workspace = prepared(root)
    run(workspace, root / "run", arms=["control", "both"], seeds=[0, 1])
    return root


@pytest.fixture
def mended(root, monkeypatch):
    monkeypatch.setenv("SSLVIZ_WORKSPACE", str(root / "w"))
    from sslviz.store.workspace import Workspace

    return Workspace()


@pytest.fixture
def page(app, mended):
    return lambda: app("finetune", dataset="pets", encoder="small")


def test_empty_workspace(app):
    assert "There is no data set in this workspace yet" in text(app("finetune"))


def test_the_page_says_what_the_job_says(page, mended):
    summary = latest_result(mended.results("pets", "small", "finetune")).content["summary"]
    test = page()
    assert summary["verdict"].split(":")[0] in text(test).replace("\\", "")
    table = test.dataframe[0].value
    assert table["encoder"].tolist() == [row["encoder"] for row in summary["arms"]]
    assert table["arm"].tolist() == ["base", "control", "control", "both", "both"]
    assert table["top-1"].tolist() == [f"{100 * row['top1']:.1f} %" for row in summary["arms"]]
    assert table["mended"].tolist()[1:] == [str(row["mended"]) for row in summary["arms"][1:]]
    for title, name in (
        ("Q right, D of the base", "q_correct_fixed"),
        ("Q wrong, D of the base", "q_wrong_fixed"),
        ("Q right, own D", "q_correct"),
        ("Q wrong, own D", "q_wrong"),
    ):
        assert table[title].tolist() == ["–" if row[name] is None else f"{row[name]:.4f}" for row in summary["arms"]], title
    for title, name in (("AUROC of Q", "auroc"), ("AUPRC of Q", "auprc"), ("top-1, 40 % fewer", "top1_40")):
        assert table[title].tolist() == [f"{100 * row[name]:.1f} %" for row in summary["arms"]], title
    assert table["eps"].tolist() == [f"{row['eps']:g}" for row in summary["arms"]]
    assert any("sslviz finetune --dataset pets --encoder small --seeds 0 --seeds 1" in block.value for block in test.code)


def test_a_mended_encoder_is_one_like_any_other(app, mended):
    shown = {
        name: text(app(name, dataset="pets", encoder="small-both-s0")) for name in PAGES if name not in ("data", "runs", "learn")
    }
    top1 = latest_result(mended.results("pets", "small-both-s0", "probe")).content["summary"]["top1"]
    assert f"{100 * top1:.1f}" in str(app("overview", dataset="pets", encoder="small-both-s0").metric[0].value)
    for page in ("overview", "scores", "sample", "features"):
        assert "no Q-Scores yet" not in shown[page]
    assert "Where the encoder looks" in shown["sample"]
    assert "Fine-tune this encoder" in shown["finetune"]


def test_no_form_for_what_cannot_be_trained(app, mended):
    spec = load_spec(mended, "small")
    cut = spec.model_copy(update={"name": "cut", "outputs": tuple(range(8)), "feature_dim": 8})
    save_encoder(mended, cut, load_weights(mended, spec))
    try:
        test = app("finetune", dataset="pets", encoder="cut")
        assert 'encoder "cut" was cut to some of its outputs' in text(test).replace("\\", "")
        assert not any(b.label == "Fine-tune" for b in test.button)
    finally:
        shutil.rmtree(mended.encoder("cut"))


def test_before_and_after_by_hand():
    base = {
        "sample_id": ["a", "b", "c"],
        "label": [0, 0, 2],
        "correct": [True, False, False],
        "confidence": [0.9, 0.6, 0.5],
        "prediction": [0, 1, 1],
        "q_fixed": [0.3, 0.1, 0.2],
    }
    both = {
        "sample_id": ["c", "b", "a"],
        "label": [2, 0, 0],
        "correct": [False, True, False],
        "confidence": [0.4, 0.8, 0.7],
        "prediction": [1, 0, 2],
        "q_fixed": [0.2, 0.5, 0.2],
    }
    table = pd.concat([pd.DataFrame(base).assign(arm="base", seed=-1), pd.DataFrame(both).assign(arm="both", seed=0)])
    found = before_and_after(table, "both", 0)
    assert found.index[~found["before"] & found["after"]].tolist() == ["b"]
    assert found.index[found["before"] & ~found["after"]].tolist() == ["a"]
    assert found["label"].to_dict() == {"a": 0, "b": 0, "c": 2}
    assert found.loc["b", "confidence_after"] == 0.8
    assert found.loc["b", ["prediction_before", "prediction_after"]].tolist() == [1, 0]
    assert found.loc["b", "change"] == pytest.approx(0.4)


def test_the_images_shown_are_those_of_the_chosen_kind(page, mended):
    images = latest_result(mended.results("pets", "small", "finetune")).table("images")
    found = before_and_after(images, "both", 0)
    test = page()
    for kind, words, cases in (
        ("mended", "mended by both", ~found["before"] & found["after"]),
        ("broken", "broken by both", found["before"] & ~found["after"]),
        ("still wrong", "wrong before and after both", ~found["before"] & ~found["after"]),
    ):
        test.segmented_control(key="mend-kind").set_value(kind).run()
        assert not test.exception
        assert f"{cases.sum()} of {len(found)} images: {words}, seed 0" in text(test)
        if cases.any():
            test.button(key="mend-select").click().run()
            picked = read_json(mended.root / "selections" / f"{test.session_state['_selection']}.json")
            assert set(picked["sample_ids"]) == set(found.index[cases])
            assert picked["origin"] == f"{words}, seed 0, from small"


def test_a_step_that_cannot_be_measured_is_said(page, monkeypatch):
    import sslviz.ui.finetune as module

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(module, "estimate", full)
    test = page()
    test.number_input(key="tune-images-small").set_value(0)
    test.number_input(key="tune-batch_size").set_value(8).run()
    test.button(key="tune-check").click().run()
    assert not test.exception
    (said,) = (line.value.replace("\\", "") for line in test.error)
    assert said.startswith("What a step needs could not be measured: out of memory. Choose a smaller --batch-size")


def test_where_right_and_wrong_are_not_known_no_images_are_compared(page, mended):
    path = latest_result(mended.results("pets", "small", "finetune")).folder / "images.parquet"
    whole = path.read_bytes()
    try:
        write_table(path, pd.read_parquet(path).drop(columns=["correct", "prediction", "confidence"]))
        test = page()
        assert "Before and after" not in text(test)
        assert "Class averages" not in text(test)
    finally:
        path.write_bytes(whole)


def test_an_arm_opens_on_the_overview(page, mended):
    test = page()
    test.selectbox(key="mend-seed").set_value(1).run()
    (link,) = (found for found in test.get("page_link") if "Overview of" in found.proto.label)
    assert link.proto.label.replace("\\", "") == "Overview of small-both-s1"
    assert "encoder=small-both-s1" in link.proto.query_string


def test_a_run_at_work_is_shown_before_one_that_waits_or_failed_later(mended):
    from types import SimpleNamespace

    from sslviz.ui.finetune import newest_run
    from tests.jobs.test_runner import held

    settings = FinetuneSettings(**SETTINGS).model_dump(mode="json")
    here = SimpleNamespace(workspace=mended, dataset=SimpleNamespace(name="pets"), encoder="small")
    handles = []
    for run_id, launched, status in (("r1", 4e9, "running"), ("r2", 4e9 + 1, "queued"), ("r3", 4e9 + 2, "failed")):
        handles.append(held(mended, run_id, "finetune", launched, status))
        config = {"job": "finetune", "settings": settings, "created": launched}
        write_json(mended.run(run_id) / "config.json", config)
    try:
        assert newest_run(here)["id"] == "r1"
        write_json(mended.run("r1") / "state.json", {"status": "done", "launched": 4e9, "updated": 4e9})
        assert newest_run(here)["id"] == "r2"
        handles[1].close()
        write_json(mended.run("r2") / "state.json", {"status": "done", "launched": 4e9, "updated": 4e9})
        assert newest_run(here)["id"] == "r3"
    finally:
        for run_id, handle in zip(("r1", "r2", "r3"), handles, strict=True):
            handle.close()
            shutil.rmtree(mended.run(run_id))


def test_a_number_out_of_bounds_is_said_and_not_replaced(page):
    test = page()
    test.number_input(key="tune-batch_size").set_value(1).run()
    assert "batch-size: expected greater than or equal to 2 (got 1)" in text(test).replace("\\", "")


def test_a_click_on_fine_tune_starts_one_run_with_the_forms_settings(page, mended, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    before = {state["id"] for state in runner.list_runs(mended)}
    test = page()
    test.number_input(key="tune-seeds").set_value(3)
    test.number_input(key="tune-batch_size").set_value(8)
    test.number_input(key="tune-epochs-small").set_value(2).run()
    next(b for b in test.button if b.label == "Fine-tune").click().run()
    assert not test.exception
    (state,) = (s for s in runner.list_runs(mended) if s["id"] not in before)
    settings = FinetuneSettings(**state["settings"])
    assert settings == FinetuneSettings(
        dataset="pets", encoder="small", arms=["control", "both"], seeds=[0, 1, 2], preset="small", epochs=2, batch_size=8
    )
    shutil.rmtree(mended.run(state["id"]))


def test_the_check_says_steps_time_and_memory(page):
    test = page()
    test.number_input(key="tune-batch_size").set_value(8).run()
    next(b for b in test.button if b.label == "Check what it needs").click().run()
    words = text(test).replace("\\", "")
    assert "Already there: small-control-s0, small-both-s0." in words
    assert "goes on with its own byol head; 60 steps of training, about" in words  # 24 images: 3 steps, 10 epochs, 2 arms
    assert "GB of memory" in words
    assert "then 2 encoders to judge" in words


def test_what_cannot_be_trained_is_said_in_the_form(page):
    test = page()
    next(b for b in test.button if b.label == "Fine-tune").click().run()
    assert "has 24 train images; expected at least one batch of 256" in text(test).replace("\\", "")


def test_curves_of_a_run_that_is_going_on(page, mended):
    settings = FinetuneSettings(**{**SETTINGS, "arms": ["both"], "seeds": [0], "name": "going"})
    folder = mended.run("20300101-000000-finetune-abcd")
    write_json(folder / "config.json", {"job": "finetune", "settings": settings.model_dump(mode="json"), "created": 4e9})
    write_json(folder / "state.json", {"status": "cancelled", "error": "cancelled", "launched": 4e9, "updated": 4e9})
    curve = latest_result(mended.results("pets", "small", "finetune")).table("curves")
    write_table(
        folder / "both-s0" / "metrics.parquet",
        curve[(curve["arm"] == "both") & (curve["seed"] == 0)].drop(columns=["arm", "seed"]),
    )
    try:
        test = page()
        assert "finetune cancelled" in text(test).replace("\\", "")
        assert any(b.label == "Resume" for b in test.button)
        named = [chart.proto.alt for chart in test.get("plotly_chart")]
        assert named.count("own self-supervised loss, by epoch") == 2  # of the stopped run, and of the finished one
    finally:
        shutil.rmtree(folder)


def test_what_a_run_needs_is_shown_with_its_progress():
    def page():
        from sslviz.ui import widgets

        run = {"job": "finetune", "status": "running", "stage": "training", "done": 1, "total": 4, "eta_seconds": None}
        widgets._run_line({**run, "facts": {"plan": "240 steps of training"}, "warnings": []})

    assert "240 steps of training" in text(AppTest.from_function(page).run())


def test_an_encoder_without_its_head_asks_for_the_loss_first(app, mended):
    spec = load_spec(mended, "small")
    save_encoder(mended, spec.model_copy(update={"name": "bare", "method": "supervised"}), load_weights(mended, spec))
    try:
        test = app("finetune", dataset="pets", encoder="bare")
        method = test.selectbox(key="tune-method")
        assert method.value is None
        assert test.button(key="tune-start").disabled
        assert test.button(key="tune-check").disabled
        method.select("byol").run()
        assert not test.button(key="tune-start").disabled
        assert any("--method byol" in code.value for code in test.code)
    finally:
        shutil.rmtree(mended.encoder("bare"))


def test_curves_of_terms_are_drawn_once_there_is_a_term(root):
    def page():
        import pandas as pd

        from sslviz.ui.finetune import charts

        row = {
            "arm": "control",
            "seed": 0,
            "epoch": 1,
            "ssl_loss": 0.1,
            "ssl_gradient": 1.0,
            "watched_q": 0.2,
            "watched_top1": 0.7,
        }
        none = {"q_term": 0.0, "l1_term": 0.0, "q_gradient": 0.0, "l1_gradient": 0.0, "moved": 0.01}
        charts(pd.DataFrame([{**row, **none}]), "control")
        charts(pd.DataFrame([{**row, **none}, {**row, **none, "arm": "both", "q_term": -0.1, "q_gradient": 0.1}]), "both")

    test = AppTest.from_function(page).run()
    assert not test.exception
    assert [chart.proto.id.rsplit("-", 2)[-2:] for chart in test.get("plotly_chart")] == [
        ["control", name] for name in ("ssl", "q", "moved", "top1")
    ] + [["both", name] for name in ("ssl", "q", "terms", "values", "moved", "top1")]


def test_a_constant_accuracy_does_not_look_like_a_rise():
    from sslviz.ui.figures.finetune import curve

    table = pd.DataFrame({"arm": "both", "seed": 0, "epoch": [0, 1], "watched_top1": [0.7675, 0.7676]})
    low, high = curve(table, {"watched_top1": ""}, "top-1", factor=100, least=2.0).layout.yaxis.range
    assert (low, high) == (pytest.approx(75.755), pytest.approx(77.755))
    assert curve(table, {"watched_top1": ""}, "top-1", factor=100).layout.yaxis.range is None
