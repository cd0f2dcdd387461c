"""The pages that drill into features, the map and one sample: what a person reads there."""

import json

import numpy as np
import pandas as pd
import pytest

from sslviz.data import dataset as datasets
from sslviz.jobs import runner
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.project import ProjectSettings, project
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import write_json
from sslviz.store.results import latest_result
from tests.inputs import demo_part, small_encoder
from tests.pages.conftest import text


def charts(test):
    return len(test.get("plotly_chart"))


@pytest.mark.parametrize("page", ["features", "projection"])
def test_empty_workspace(app, page):
    assert "There is no data set in this workspace yet" in text(app(page))


def test_before_scores_the_features_page_leads_to_the_overview(app, photos):
    assert "No Q-Scores yet for this data set and encoder." in text(app("features"))


def test_features_page_shows_the_band_of_the_command(app, scored, workspace):
    test = app("features")
    table = latest_result(workspace.results("photos", "tiny", "score")).table("features")
    part = table[table["chosen"]]
    assert f"{scored['n_discriminative']} of {scored['n_features']} features are discriminative" in text(test)
    assert f"{part['share'].min():.2f} to" in text(test) or f"{np.percentile(table['share'], 50):.2f} to" in text(test)
    assert charts(test) == 1
    assert not any(b.label == "Score with these settings" for b in test.button)


def test_other_settings_are_counted_at_once_and_scored_by_a_button(app, scored, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("features")
    test.select_slider[0].set_value(0.5).run()
    test.slider[0].set_value((25.0, 75.0)).run()
    assert not test.exception
    H = EmbeddingStore(workspace.embeddings("photos", "tiny"))
    rows = H.rows().merge(pd.DataFrame({"sample_id": H.rows()["sample_id"]}))
    train = rows[rows["sample_id"].str.startswith("train/")]["row"].to_numpy()
    from tests import reference

    chosen = reference.discriminative(H.read(train).astype(float), 0.5, 25, 75)
    assert f"{len(chosen)} of 32 features are discriminative" in text(test)
    assert f"The scores were made with eps {scored['eps']:g}" in text(test)
    assert "the class it fires in most" not in text(test)  # counted at the scores' eps
    test.segmented_control(key="features-order").set_value("most selective for a class").run()
    assert f"is known at the scores' eps, {scored['eps']:g}" in text(test)
    next(b for b in test.button if b.label == "Score with these settings").click().run()
    (run,) = runner.list_runs(workspace)
    assert (run["job"], run["settings"]["eps"], run["settings"]["lower"], run["settings"]["upper"]) == ("score", 0.5, 25.0, 75.0)


def test_a_features_link_opens_it_and_wrong_ones_say_so(app, scored, workspace):
    feature = int(latest_result(workspace.results("photos", "tiny", "score")).table("features")["share"].idxmax())
    test = app("features", feature=str(feature))
    share = latest_result(workspace.results("photos", "tiny", "score")).table("features")["share"][feature]
    assert f"Feature {feature}" in [s.value for s in test.subheader]
    assert f"Fires in **{share:.2f} %** of the train images" in text(test)
    assert charts(test) == 3
    assert len(test.get("bidi_component")) == 3  # strongest, middling, weakest
    next(b for b in test.button if b.label == "All features").click().run()
    assert "What the discriminative features are strongest in" in [s.value for s in test.subheader]
    for wrong in ("32", "-1", "abc"):
        assert "There is no feature" in text(app("features", feature=wrong))


def test_the_map_is_made_by_a_button_then_shown(app, scored, workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    test = app("projection")
    assert "No map of these 32 images yet" in text(test)
    next(b for b in test.button if b.label == "Make the map").click().run()
    assert [r["job"] for r in runner.list_runs(workspace)] == ["project"]
    assert next(b for b in test.button if b.label == "Make the map").disabled
    write_json(
        workspace.run(runner.list_runs(workspace)[0]["id"]) / "state.json", {"status": "done", "launched": 1, "updated": 2}
    )
    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app("projection")
    assert "UMAP of 32 images" in text(test)
    assert charts(test) == 1
    box = test.selectbox(key="map-colour")
    assert box.options == ["Class", "Q-Score", "Right or wrong", "A feature", "Split"]
    for colour in ("q", "correct", "feature", "split"):
        test.selectbox(key="map-colour").set_value(colour).run()
        assert not test.exception
        assert charts(test) == 1
    picked = app("projection", **{"map-classes": "ring"})
    assert picked.multiselect(key="map-classes").value == ["ring"]
    names = [trace["name"] for trace in json.loads(picked.get("plotly_chart")[0].proto.spec)["data"] if trace.get("name")]
    assert sorted(names) == ["other classes", "ring"]
    linked = app("projection")
    linked.query_params["colour"], linked.query_params["feature"] = "feature", "5"
    linked.run()
    assert linked.selectbox(key="map-colour").value == "feature"
    assert linked.number_input(key="map-feature").value == 5
    linked.query_params["feature"] = "99"
    assert "There is no feature 99 here" in text(linked.run())
    assert linked.number_input(key="map-feature").value == 5


def test_a_map_without_scores(app, photos, workspace):
    from sslviz.jobs.embed import EmbedSettings, embed

    assert "This needs embeddings that are up to date" in text(app("projection"))
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    test = app("projection")
    assert charts(test) == 1
    assert test.selectbox(key="map-colour").options == ["Class", "A feature", "Split"]


def selected(workspace, ids, dataset="photos"):
    (workspace.root / "selections").mkdir(exist_ok=True)
    write_json(workspace.root / "selections" / "abc123.json", {"dataset": dataset, "sample_ids": ids, "origin": "by hand"})


def test_one_selection_on_every_page(app, scored, workspace):
    ids = ["val/ring/004.png", "val/disc/001.png", "train/ring/003.png"]
    selected(workspace, ids)
    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    for page in ("scores", "sample", "projection"):
        test = app(page, selection="abc123")
        assert "**3 images selected** (by hand)" in text(test)
    sample = app("sample", selection="abc123")
    assert "of 3" in text(sample)
    opened = app("sample", selection="abc123", sample=ids[0])
    opened.session_state["sequence"] = ["val/disc/000.png", ids[0], "val/disc/003.png", ids[1], ids[2]]  # as a grid leaves it
    opened.run()
    assert "2 of 5" in text(opened)
    next(b for b in opened.button if b.label == "Next").click().run()
    assert "val/disc/003.png" in text(opened)
    next(b for b in opened.button if b.label == "Clear the selection").click().run()
    assert "of 12" in text(opened)
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    predictions = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions")[["sample_id", "correct"]]
    part = scores.merge(predictions, on="sample_id", how="left").set_index("sample_id").loc[ids]
    wrong = part[part["correct"].eq(False).fillna(False)]
    assert (part if wrong.empty else wrong)["q"].idxmin() in text(sample)
    scores = app("scores", selection="abc123")
    next(b for b in scores.button if b.label == "Clear the selection").click().run()
    assert "images selected" not in text(scores)
    assert "selection" not in scores.query_params


@pytest.mark.parametrize("name", ["nothing", "../../etc/passwd", "abc123"])
def test_unknown_selections_and_those_of_another_data_set_are_said(app, scored, workspace, name):
    selected(workspace, ["a"], dataset="other")
    content = {"dataset": "photos", "sample_ids": ["val/ring/004.png"], "origin": "elsewhere"}
    write_json(workspace.root.parent.parent / "etc" / "passwd.json", content)  # what ../../etc/passwd would lead to
    assert "There is no selection" in text(app("scores", selection=name))


def test_the_sample_page_shows_what_fires(app, scored, workspace):
    worst = scored["worst"][0]["sample_id"]
    test = app("sample", sample=worst)
    store = EmbeddingStore(workspace.embeddings("photos", "tiny"))
    row = store.rows().set_index("sample_id")["row"][worst]
    line = latest_result(workspace.results("photos", "tiny", "score")).table("scores").set_index("sample_id").loc[worst]
    from tests import reference

    fires = np.array(reference.firing(store.read(np.array([row])).astype(float), scored["eps"]))[0]
    assert f"**{line['n_chosen']} discriminative features fire** of {fires.sum()} that fire at all" in text(test)
    table = next(d.value for d in test.dataframe if "in D" in d.value)
    assert sorted(table["feature"]) == np.flatnonzero(fires).tolist()
    assert int(table["in D"].sum()) == line["n_chosen"]
    assert "Nearest train images" in text(test)
    assert "What if" not in text(test)  # only where pictures can be drawn again


def test_the_damage_check_is_shown_where_it_was_made(app, scored, workspace):
    test = app("scores", tab="Damage check")
    command = f"sslviz score --dataset photos --encoder tiny --damage 300 --workspace {workspace.root} --json"
    assert test.code[0].value == command
    score(ScoreSettings(dataset="photos", encoder="tiny", damage=10), workspace, Progress())
    test = app("scores", tab="Damage check")
    assert "10 images were damaged in five ways" in text(test)
    damage = pd.DataFrame(latest_result(workspace.results("photos", "tiny", "score")).content["summary"]["damage"])
    table = next(d.value for d in test.dataframe if "blurred" in d.value).set_index("score")
    for title, name in (("Q-Score", "q"), ("L2 norm of the raw embedding", "norm")):
        for row in damage[damage["score"] == name].itertuples():
            assert table.loc[title, row.damage] == pytest.approx(100 * row.falls)


@pytest.fixture
def demo(workspace):
    demo_part(workspace)
    analyze(AnalyzeSettings(dataset="demo", encoder="simclr-demo"), workspace, Progress())


def test_counterfactuals_of_a_demo_image(app, demo, workspace):
    test = app("sample", sample="test/mug/1000000.webp")
    causes = pd.read_parquet(workspace.dataset("demo") / "causes.parquet").set_index("sample_id").loc["test/mug/1000000.webp"]
    table = next(d.value for d in test.dataframe if "cause" in d.value)
    assert causes["place"] in table["here"][0]
    before = len(test.metric)
    test.button(key="whatif").click().run()
    assert not test.exception
    assert len(test.metric) == before + 2 * 6
    shown = [m.value for m in test.metric][before:]
    scores = latest_result(workspace.results("demo", "simclr-demo", "score")).table("scores").set_index("sample_id")
    assert float(shown[0]) == pytest.approx(scores["q"]["test/mug/1000000.webp"], abs=2e-4)  # embedded now as it was then
    test.selectbox(key="whatif-trouble-test/mug/1000000.webp").set_value("occluded").run()
    assert not test.exception
    assert len(test.metric) == before + 2 * 7
    assert "occluded" in text(test)
    live = app("sample", sample="train/mug/0000000.webp")  # no shipped counterfactuals: drawn here
    live.button(key="whatif").click().run()
    assert not live.exception
    assert "as it is" in text(live)


def test_while_the_demo_is_prepared_the_page_waits_for_it(app, workspace, monkeypatch):
    from sslviz.jobs.demo import start_demo

    monkeypatch.setattr(runner, "_start", lambda *_: None)
    start_demo(workspace)
    assert "The demo is being prepared" in text(app())


def test_a_picture_that_has_gone_is_said(app, scored, photos, workspace):
    gone = scored["worst"][0]["sample_id"]
    (photos / gone).unlink()
    datasets.refresh(workspace, "photos")
    test = app("sample", sample=gone)
    assert "This picture is no longer in the data set." in text(test)
    assert "**stale**" in text(test)
    assert not app("features").exception


def test_embeddings_made_again_are_not_explained_by_old_scores(app, scored, workspace):
    from sslviz.jobs.embed import EmbedSettings, embed

    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    before = app("projection")
    before.selectbox(key="map-colour").set_value("feature").run()
    embed(EmbedSettings(dataset="photos", encoder="tiny", store_dtype="float16"), workspace, Progress())
    assert "the embeddings have changed since these scores were made" in text(app("sample"))
    small_encoder(workspace, feature_dim=16)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    for page in ("sample", "features", "scores"):
        assert "**stale**" in text(app(page))
    assert "**Stale map**" in text(app("projection"))


def test_old_scores_keep_their_class_names(app, scored, photos, workspace):
    from tests.inputs import folder

    folder(photos, {"train/apple": 3, "val/apple": 2})  # sorts before disc and ring
    datasets.refresh(workspace, "photos")
    for sample_id, title in (("val/ring/004.png", "ring"), ("val/disc/001.png", "disc")):
        assert f"**{title}**" in text(app("sample", sample=sample_id))


def test_percentiles_are_of_the_samples_own_split(app, scored, workspace):
    scores = latest_result(workspace.results("photos", "tiny", "score")).table("scores")
    part = scores[scores["split"] == "val"].set_index("sample_id")["q"]
    middle = part.sort_values().index[6]
    test = app("sample", sample=middle)
    assert {m.label: m.value for m in test.metric}["Percentile"] == f"{100 * (part < part[middle]).mean():.0f} %"


def test_the_words_over_a_selection_count_the_misclassified(app, scored, workspace):
    project(ProjectSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    predictions = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions")
    ids = predictions["sample_id"].tolist()[:5]
    selected(workspace, [*ids, "train/ring/003.png"])
    wrong = int((~predictions.set_index("sample_id").loc[ids, "correct"].astype(bool)).sum())
    assert f"**6 images**, {wrong} of 5 judged ones misclassified" in text(app("projection", selection="abc123"))


def test_colour_by_feature_is_the_value_in_the_unit_row(scored, workspace):
    from sslviz.ui import reads

    ids = ("val/ring/004.png", "train/disc/000.png")
    H = reads.embeddings(workspace, "photos", "tiny", list(ids)).astype(float)
    made_of = reads.embeddings_fingerprint(workspace, "photos", "tiny")
    got = reads.unit_rows(str(workspace.root), "photos", "tiny", made_of, ids)[:, 5]
    np.testing.assert_allclose(got, H[:, 5] / np.linalg.norm(H, axis=1), rtol=1e-5)


@pytest.mark.parametrize("order", ["fires most often", "fires least often", "most selective for a class"])
def test_cards_of_features_come_in_the_order_asked_for(app, scored, workspace, monkeypatch, order):
    from sslviz.ui import features as page

    shown = []
    monkeypatch.setattr(page, "cards", lambda here, result, scored, words, key: shown.append([w[0] for w in words]))
    test = app("features")
    test.segmented_control(key="features-order").set_value(order).run()
    result = latest_result(workspace.results("photos", "tiny", "score"))
    chosen = result.table("features").query("chosen").set_index("feature")["share"]
    shares = result.table("feature_classes").pivot(index="feature", columns="label", values="share").loc[chosen.index]
    value = {"fires most often": -chosen, "fires least often": chosen}.get(order, -(shares.max(axis=1) - shares.mean(axis=1)))
    assert value.nunique() > 2
    assert shown[-1] == value.round(9).sort_index().sort_values(kind="stable").index[: len(shown[-1])].tolist()


def test_what_is_new_and_what_is_gone_in_a_counterfactual():
    from streamlit.testing.v1 import AppTest

    def page():
        from types import SimpleNamespace

        import numpy as np

        from sslviz.ui.whatif import _card
        from tests.inputs import encoded, picture

        original = SimpleNamespace(q=0.5, chosen=np.array([1, 2, 3, 4]), probabilities=None)
        found = SimpleNamespace(q=0.25, chosen=np.array([3, 4, 5]), probabilities=None)
        _card("dark", "in the dark", encoded(picture()), found, original, None, [])

    test = AppTest.from_function(page).run()
    assert not test.exception
    assert [(m.label, m.value, m.delta) for m in test.metric] == [
        ("Q-Score", "0.2500", "-0.2500"),
        ("Firing in D", "3", "1 new, 2 gone"),
    ]


def test_the_encoder_with_most_results_is_shown_first(workspace):
    from sslviz.ui import reads

    for encoder, jobs in (("a", ["score"]), ("b", ["probe", "score"]), ("c", [])):
        for job in jobs:
            workspace.results("photos", encoder, job).mkdir(parents=True)
    assert reads.best_encoder(workspace, "photos", ["a", "b", "c"]) == "b"
    assert reads.best_encoder(workspace, "elsewhere", ["a", "b", "c"]) == "a"


@pytest.mark.parametrize(
    ("trouble", "names"),
    [
        ("none", ["place", "half hidden", "dark", "turned", "far"]),
        ("dark", ["place", "half hidden, not dark", "not dark", "turned", "far, not dark"]),
    ],
)
def test_a_counterfactual_says_which_trouble_it_takes_away(trouble, names):
    from sslviz.data.demo import files
    from sslviz.ui.whatif import _named

    assert [_named(change, trouble) for change in files.CHANGES] == names
    scene = files.scene_of("test/mug/1000000.webp").changed(trouble=trouble)
    for change, name in zip(files.CHANGES, names, strict=True):
        after = files.counterfactual(scene, False, trouble, change).trouble
        assert (after == trouble) == (name == change and change in ("place", "turned"))
