"""The course: every step from its address, on live numbers that are those of the stored results."""

import numpy as np
import pytest

from sslviz.analysis.features import EPS_GRID
from sslviz.jobs.inputs import open_embedded
from sslviz.store.results import latest_result
from sslviz.ui.learn import STEPS
from tests import reference
from tests.pages.conftest import text


def test_empty_workspace(app):
    assert "There is no data set in this workspace yet" in text(app("learn"))


@pytest.mark.parametrize("step", range(1, len(STEPS) + 1))
def test_every_step_opens_from_its_address(app, scored, step):
    test = app("learn", step=str(step))
    assert f"{step}. {STEPS[step - 1].title}" in [s.value for s in test.subheader]
    for part in ("**Try it.**", "**You should find.**", "**Why.**"):
        assert part in text(test)
    words = next(d.value for d in test.dataframe if "word" in d.value)
    assert {"Q-Score", "AUROC", "control"} <= set(words["word"])


def test_the_way_through(app, scored):
    test = app("learn")
    assert test.button(key="learn-back").disabled
    for k in range(1, len(STEPS)):
        test.button(key="learn-next").click().run()
        assert not test.exception
        assert f"{k + 1}. {STEPS[k].title}" in [s.value for s in test.subheader]
    assert test.button(key="learn-next").disabled
    test.button(key="learn-back").click().run()
    assert f"{len(STEPS) - 1}. {STEPS[-2].title}" in [s.value for s in test.subheader]


def row_of(workspace, place):
    """The picture that the page calls so: of twelve val images, by rising Q-Score."""
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    order = scores[scores["split"] == "val"].sort_values(["q", "sample_id"], ignore_index=True)
    return order.iloc[round(place * (len(order) - 1) / 5)]


def test_what_fires_is_counted_at_the_sliders_eps(app, scored, workspace):
    test = app("learn", step="2", picture="3")
    row = row_of(workspace, 2)
    assert row["sample_id"] in text(test)
    embedded = open_embedded(workspace, "photos", "tiny")
    h = embedded.store.read(embedded.samples.set_index("sample_id").loc[[row["sample_id"]], "row"].to_numpy())[0].astype(float)
    h /= np.linalg.norm(h)
    for eps in (0.5, 2.0):
        assert eps in EPS_GRID
        test.select_slider(key="learn-eps").set_value(eps).run()
        assert f"At eps {eps:g}, {int((h > h.mean() + eps * h.std()).sum())} of 32 features fire here" in text(test)


def test_the_band_is_the_sliders(app, scored, workspace):
    test = app("learn", step="3")
    test.slider(key="learn-band").set_value((20.0, 80.0)).run()
    embedded = open_embedded(workspace, "photos", "tiny")
    train = embedded.samples[embedded.samples["split"] == "train"]["row"].to_numpy()
    chosen = reference.discriminative(embedded.store.read(train).astype(float), scored["eps"], 20, 80)
    assert f"Between P20 and P80 lie {len(chosen)} of 32 features" in text(test)
    test.slider(key="learn-band").set_value((50.0, 50.0)).run()
    assert "must be above the lower one" in text(test)


@pytest.mark.parametrize("place", [0, 5])
def test_the_score_is_worked_out_before_ones_eyes(app, scored, workspace, place):
    test = app("learn", step="4", picture=str(place + 1))
    row = row_of(workspace, place)
    table = next(d.value for d in test.dataframe if "above mu" in d.value)
    value = table["above mu"].mean() if len(table) else 0.0
    assert value == pytest.approx(row["q"], abs=1e-6)
    assert test.metric[0].value == f"{row['q']:.4f}"


def test_errors_among_the_pictures_that_are_kept(app, scored, workspace):
    test = app("learn", step="6")
    test.slider(key="learn-kept").set_value(25).run()
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    answers = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions")[["sample_id", "correct"]]
    val = scores[scores["split"] == "val"].merge(answers, on="sample_id")
    table = next(d.value for d in test.dataframe if "wrong among those kept" in d.value).set_index("score")
    best = val.sort_values("nn1", ascending=False).head(3)["correct"].astype(bool)
    shown = table.loc["similarity to the nearest train image"]
    assert shown["wrong among those kept"] == pytest.approx(100 * (1 - best.mean()))
    assert shown["AUROC"] == pytest.approx(100 * scored["reports"]["nn1"]["auroc"])
    assert table.loc["drawn at random", "wrong among those kept"] == pytest.approx(100 * (1 - val["correct"].astype(bool).mean()))


def test_without_labels_the_steps_that_need_them_say_so(app, workspace, tmp_path):
    from sslviz.data import dataset as datasets
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.progress import Progress
    from tests.inputs import folder, small_encoder

    datasets.add_folder(workspace, "plain", folder(tmp_path / "plain", {"": 20}))
    small_encoder(workspace)
    analyze(AnalyzeSettings(dataset="plain", encoder="tiny"), workspace, Progress())
    for step in ("5", "6"):
        assert "This step needs labels and a probe" in text(app("learn", step=step))
