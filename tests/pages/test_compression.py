"""The compression page: what a person reads there before and after, and the subset that is taken away."""

import pytest

from sslviz.analysis.compression import subset
from sslviz.data import dataset as datasets
from sslviz.jobs import runner
from sslviz.jobs.compress import CompressSettings, compress
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.export import ExportSettings, export
from sslviz.progress import Progress
from sslviz.store.files import read_json, write_json
from sslviz.store.results import latest_result
from tests.inputs import folder, small_encoder
from tests.pages.conftest import text


def test_empty_workspace(app):
    assert "There is no data set in this workspace yet" in text(app("compression"))


def test_a_button_makes_the_curve(app, scored, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("compression")
    assert "No compression curve yet" in text(test)
    next(b for b in test.button if b.label == "Make the curve").click().run()
    (run,) = runner.list_runs(workspace)
    assert (run["job"], run["settings"]["encoder"]) == ("compress", "tiny")


def test_without_labels_there_is_none(app, workspace, tmp_path):
    datasets.add_folder(workspace, "loose", folder(tmp_path / "loose", {"train": 6, "test": 3}))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="loose", encoder="tiny"), workspace, Progress())
    test = app("compression")
    assert "this data set has none" in text(test)
    assert not any(b.label == "Make the curve" for b in test.button)


def test_the_curve_in_words_and_a_subset_to_take_away(app, scored, workspace):
    result = compress(CompressSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app("compression")
    lost = 100 * result["at_40"]["discriminative"]["drop"]
    assert f"the probe loses {lost:.1f} points" in text(test)
    figures = {m.label: m.value for m in test.metric}
    assert figures["Full width"] == f"{100 * result['top1']:.1f} %"
    assert figures["Random, 40 %"] == f"{100 * result['at_40']['random']['drop']:.1f}"
    assert len(test.get("plotly_chart")) == 1
    assert "uses the labels of these images" in text(test)
    assert "itself a cut of about 55 %" in text(test)
    assert "In the paper the curves of discriminative and of random features coincide for some encoders" in text(test)
    for points in ("1", "2"):
        first = result["enough"]["discriminative"][points]
        said = "beyond 90 %" if first is None else f"{100 * first:.0f} %"
        assert figures[f"{points} point{'s' if points == '2' else ''} lost at"] == said
    path = latest_result(workspace.results("photos", "tiny", "compress")).folder / "result.json"
    content = read_json(path)
    content["summary"]["notes"] = ["3 of 81 probes stopped without converging"]
    content["summary"]["enough"]["discriminative"] = {"1": 0.2, "2": None}
    write_json(path, content)
    assert "3 of 81 probes stopped without converging" in text(app("compression"))
    figures = {m.label: m.value for m in app("compression").metric}
    assert (figures["1 point lost at"], figures["2 points lost at"]) == ("20 %", "beyond 90 %")
    shares = latest_result(workspace.results("photos", "tiny", "compress")).table("shares")["share"].to_numpy()
    kept = subset(shares, "upper tail", 0.75)
    test.selectbox(key="compression-take").set_value("upper tail")
    test.slider(key="compression-less").set_value(75).run()
    assert f"{len(kept)} of 32 features; they fire in {shares[kept].min():.2f} to {shares[kept].max():.2f} %" in text(test)


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ([-0.03, 0.01], "not distinguishable from random features"),
        ([0.01, 0.03], "better than random features"),
        ([-0.03, -0.01], "worse than random features"),
    ],
)
def test_the_verdict_follows_the_interval(app, scored, workspace, interval, words):
    compress(CompressSettings(dataset="photos", encoder="tiny", l2=0.01), workspace, Progress())
    path = latest_result(workspace.results("photos", "tiny", "compress")).folder / "result.json"
    content = read_json(path)
    content["summary"]["at_40"]["discriminative"]["above_random"] = [sum(interval) / 2, *interval]
    write_json(path, content)
    assert f"**{words}** of the same number" in text(app("compression"))


def test_an_encoder_cut_on_the_command_line_is_the_pages_own(app, scored, workspace):
    """With --eps auto, where the page names the number; and its run is gone."""
    compress(CompressSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    export(ExportSettings(dataset="photos", encoder="tiny", reduction=0.4), workspace, Progress())
    words = text(app("compression")).replace("\\", "")
    assert "Encoder **tiny-discriminative-40**: gives these 19 features" in words


def test_a_button_makes_the_compressed_encoder(app, scored, workspace, monkeypatch):
    compress(CompressSettings(dataset="photos", encoder="tiny", eps=2), workspace, Progress())
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("compression")
    test.selectbox(key="compression-take").set_value("lower tail")
    test.slider(key="compression-less").set_value(70).run()
    test.button(key="compression-export").click().run()
    (run,) = runner.list_runs(workspace)
    assert run["job"] == "export"
    made = ExportSettings.model_validate(run["settings"])
    assert made == ExportSettings(dataset="photos", encoder="tiny", kind="lower tail", reduction=0.7, eps=2)
    assert test.button(key="compression-export").disabled
    result = export(made, workspace, Progress())
    path = workspace.run(run["id"]) / "state.json"
    write_json(path, {"status": "done", "result": result})
    test.run()
    assert "Encoder **tiny-lower-tail-70**" in text(test).replace("\\", "")
    assert not any(b.key == "compression-export" for b in test.button)
    assert result["n_features"] == 10
    compress(CompressSettings(dataset="photos", encoder="tiny", eps=1), workspace, Progress())
    test.run()
    assert "has other features or weights" in text(test)  # ranked at another eps


@pytest.fixture
def two(scored, workspace):
    small_encoder(workspace, "other", seed=4)
    embed(EmbedSettings(dataset="photos", encoder="other"), workspace, Progress())
    for name in ("tiny", "other"):
        compress(CompressSettings(dataset="photos", encoder=name), workspace, Progress())


def test_two_encoders_side_by_side_and_a_stale_curve(app, two, workspace, photos):
    test = app("compression", encoder="tiny")
    assert "Other encoders" in [s.value for s in test.subheader]
    assert len(test.get("plotly_chart")) == 2
    test.selectbox(key="compression-kind").set_value("pca").run()
    assert not test.exception
    l2 = {e: latest_result(workspace.results("photos", e, "compress")).content["summary"]["l2"] for e in ("other", "tiny")}
    assert f"other {l2['other']:g} and " in text(test)
    assert f"tiny {l2['tiny']:g} and " in text(test)
    next((photos / "train" / "disc").glob("*.png")).unlink()
    datasets.refresh(workspace, "photos")
    test = app("compression", encoder="tiny")
    assert "**Stale curve**" in text(test)
    assert len(test.get("plotly_chart")) == 1
