"""The compare page: what a person reads there with none, one and three scored encoders."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from sslviz.analysis.rivals import RIVALS
from sslviz.data import dataset as datasets
from sslviz.jobs import runner
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.compare import judged, row
from sslviz.progress import Progress
from sslviz.store.files import write_json
from tests.inputs import folder, small_encoder
from tests.pages.conftest import text


def shown_table(test):
    return test.dataframe[0].value.set_index("encoder")


def button(test, label):
    return next(b for b in test.button if b.label == label)


def test_empty_workspace(app):
    assert "There is no data set in this workspace yet" in text(app("compare"))


def test_none_scored_then_a_button_compares_all(app, photos, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    small_encoder(workspace, "other", seed=4)
    test = app("compare")
    assert "None of these encoders is scored on photos yet" in text(test)
    assert "other is missing" in text(test)
    button(test, "Compare these too").click().run()
    (run,) = runner.list_runs(workspace)
    assert (run["job"], run["settings"]["encoders"], run["settings"]["controls"]) == ("compare", ["other", "tiny"], True)
    assert button(app("compare"), "Compare these too").disabled


def test_controls_alone_leave_out_what_was_taken_off_the_list(app, scored, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    small_encoder(workspace, "other", seed=4)
    test = app("compare")
    test.multiselect(key="compare-more").set_value([]).run()
    button(test, "Compare these too").click().run()
    (run,) = (r for r in runner.list_runs(workspace) if r["job"] == "compare")
    assert (run["settings"]["encoders"], run["settings"]["controls"]) == (["tiny"], True)


def test_one_scored_encoder_has_a_line_and_nothing_beside_it(app, scored, workspace):
    test = app("compare")
    found = shown_table(test)
    assert list(found.index) == ["tiny"]
    assert found.loc["tiny", "AUROC of Q"] == pytest.approx(100 * scored["reports"]["q"]["auroc"])
    assert "and another of these are scored, they can be compared" in text(test)
    assert len(test.get("plotly_chart")) == 0
    assert button(test, "Add the controls")


@pytest.fixture
def three(scored, workspace):
    for k, name in enumerate(("other", "third")):
        small_encoder(workspace, name, seed=k + 4)
        analyze(AnalyzeSettings(dataset="photos", encoder=name), workspace, Progress())


def test_three_encoders_side_by_side(app, three, workspace):
    test = app("compare", encoder="tiny", beside="third")
    dataset = datasets.load(workspace, "photos")
    found = shown_table(test)
    lines = {name: row(workspace, dataset, name) for name in ("tiny", "other", "third")}
    assert set(found.index) == set(lines)
    assert found["top-1"].is_monotonic_decreasing
    for name, line in lines.items():
        assert found.loc[name, "top-1"] == pytest.approx(100 * line["top1"])
        best = max(("norm", "std", "nn1", "nn10"), key=lambda n: line["reports"][n]["auroc"])
        assert found.loc[name, "best rival"] == f"{best} {100 * line['reports'][best]['auroc']:.1f}"
        assert RIVALS[best].title in text(test)
    a, b = (judged(workspace, dataset, name)["correct"].astype(bool) for name in ("tiny", "third"))
    assert f"{(a & ~b).sum()} only tiny gets right, {(~a & b).sum()} only third" in text(test)
    assert "tiny beside third" in [s.value for s in test.subheader]
    assert "Do they fail on the same images?" in [s.value for s in test.subheader]
    for view in test.get("button_group")[0].options:
        test.session_state["compare-view"] = getattr(view, "content", view)
        test.run()
        assert not test.exception
    assert len(test.get("plotly_chart")) == 2  # consistency, and Q against Q, the last view
    for name, line in lines.items():
        assert found.loc[name, "AUROC of probe"] == pytest.approx(100 * line["reports"]["msp"]["auroc"])
    square = next(d.value for d in test.dataframe if set(lines) <= set(d.value.columns)).set_index("encoder")
    right = {name: judged(workspace, dataset, name)["correct"].astype(bool) for name in lines}
    for one, two in combinations(lines, 2):
        assert square.loc[one, two] == square.loc[two, one] == pytest.approx(cohen_kappa_score(right[one], right[two]))


def test_arms_of_fine_tunings_are_shown_when_asked_for_or_chosen(app, three, workspace):
    for name in ("other", "third"):
        write_json(workspace.encoder(name) / "card.json", {"made_by": "abc"})
    small_encoder(workspace, "fourth", seed=9)
    (workspace.encoder("fourth") / "card.json").write_text("not JSON")  # of others
    test = app("compare", encoder="tiny")
    assert set(shown_table(test).index) == {"tiny"}
    assert "fourth is missing" in text(test)
    assert "Once tiny and another of these are scored" in text(test)
    (toggle,) = test.toggle
    assert toggle.label == "Also 2 fine-tuned by sslviz"
    toggle.set_value(True).run()
    assert set(shown_table(test).index) == {"tiny", "other", "third"}
    assert set(shown_table(app("compare", encoder="third")).index) == {"tiny", "third"}


def test_below_a_picture_stands_what_the_probe_that_is_wrong_says(monkeypatch):
    from sslviz.ui import compare as page

    shown = []
    monkeypatch.setattr(page.widgets, "paged_gallery", lambda dataset, table, *_, **__: shown.append(table))
    cases = ["only tiny", "only third", page.figures.BOTH_RIGHT]
    part = pd.DataFrame({"sample_id": list("abc"), "q": [0.3, 0.2, 0.1], "correct": [True, False, True], "case": cases})
    page.gallery(SimpleNamespace(dataset=None), part.assign(predicted=list("DRD"), predicted_other=list("RDD")), "k")
    (table,) = shown
    assert table["sample_id"].tolist() == ["c", "b", "a"]
    assert table["predicted"].tolist()[1:] == ["R", "R"]
    assert table["correct"].tolist() == [True, False, False]


@pytest.mark.parametrize(("difference", "better"), [(0.1, "tiny"), (-0.1, "third")])
def test_the_better_of_two_is_named(app, three, monkeypatch, difference, better):
    from sslviz.ui import compare as page

    known = page.pair

    def certain(first, second):
        found = known(first, second)
        return {**found, "probes": {**found["probes"], "difference": difference, "p_value": 0.01}}

    monkeypatch.setattr(page, "pair", certain)
    assert f"**{better} is better**" in text(app("compare", encoder="tiny", beside="third"))


def test_an_encoder_in_the_sidebar_without_scores_is_said(app, three, workspace):
    small_encoder(workspace, "fourth", seed=9)
    test = app("compare", encoder="fourth")
    assert "Once fourth and another of these are scored" in text(test)
    assert list(test.multiselect[0].options) == ["fourth"]


def test_without_labels(app, workspace, tmp_path):
    datasets.add_folder(workspace, "loose", folder(tmp_path / "loose", {"train": 14, "test": 6}))
    for k, name in enumerate(("one", "two")):
        small_encoder(workspace, name, seed=k)
        analyze(AnalyzeSettings(dataset="loose", encoder=name), workspace, Progress())
    test = app("compare")
    found = shown_table(test)
    assert set(found["the Q-Score"]) == {"no labels"}
    assert np.isnan(found["AUROC of Q"].astype(float)).all()
    assert "Of an image's nearest train images they share" in text(test)
    assert "Error consistency" not in text(test)
    assert len(test.get("plotly_chart")) == 1


def test_choosing_the_other_one_in_the_sidebar_leaves_a_pair(app, three):
    test = app("compare", encoder="tiny", beside="third")
    test.selectbox(key="encoder").set_value("third").run()
    assert not test.exception
    assert test.selectbox(key="beside").value in ("tiny", "other")
