import numpy as np
import pytest

from sslviz.analysis.projection import Projection
from sslviz.data import dataset as datasets
from sslviz.errors import Cancelled, NotFound
from sslviz.jobs import inputs, project
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.project import ProjectSettings
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.results import latest_result
from tests.inputs import embedded_photos, folder, picture, small_encoder


@pytest.fixture
def photos(tmp_path, workspace):
    return embedded_photos(workspace, tmp_path / "photos", 14, 6)


def run(workspace, progress=None, **options):
    return project.project(ProjectSettings(dataset="photos", encoder="tiny", **options), workspace, progress or Progress())


def test_every_image_has_a_place_by_id(workspace, photos):
    summary = run(workspace)
    assert (summary["n"], summary["method"], summary["n_fitted"]) == (40, "umap", 40)
    table = latest_result(workspace.results("photos", "tiny", "project")).table("map")
    assert set(table["sample_id"]) == set(datasets.load(workspace, "photos").samples["sample_id"])
    store = EmbeddingStore(workspace.embeddings("photos", "tiny"))
    known = store.rows().sort_values("row")
    expected = Projection(15, 0.1, 0).fit(store.read(known["row"].to_numpy()))
    got = table.set_index("sample_id").loc[known["sample_id"], ["x", "y"]].to_numpy()
    np.testing.assert_allclose(got, expected, atol=1e-4)
    run(workspace, neighbours=5, min_dist=0.5, seed=3)
    table = latest_result(workspace.results("photos", "tiny", "project")).table("map")
    other = Projection(5, 0.5, 3).fit(store.read(known["row"].to_numpy()))
    got = table.set_index("sample_id").loc[known["sample_id"], ["x", "y"]].to_numpy()
    np.testing.assert_allclose(got, other, atol=1e-4)
    assert not np.allclose(other, expected)
    assert np.isfinite(table[["x", "y"]]).all().all()
    found = datasets.load(workspace, "photos")
    assert inputs.result_state(workspace, found, "tiny", "project")[0] == "fresh"


def test_a_map_of_other_images_is_stale(workspace, photos):
    run(workspace)
    picture(77).save(photos / "train/disc/new.png")
    found, _ = datasets.refresh(workspace, "photos")
    assert inputs.result_state(workspace, found, "tiny", "project")[0] == "stale"


def test_many_images_are_placed_on_the_map_of_a_sample(workspace, photos, monkeypatch):
    from sslviz.analysis import projection

    monkeypatch.setattr(projection, "MAX_FIT_ROWS", 25)
    said = []
    progress = Progress()
    progress.warn = said.append
    summary = run(workspace, progress)
    assert (summary["n"], summary["n_fitted"]) == (40, 25)
    assert "fitted on 25 images" in said[0]
    table = latest_result(workspace.results("photos", "tiny", "project")).table("map")
    assert np.isfinite(table[["x", "y"]]).all().all()


def test_cancel_is_heard_while_the_map_is_made(workspace, photos, monkeypatch):
    import threading

    never = threading.Event()
    monkeypatch.setattr("sslviz.analysis.projection.Projection.fit", lambda *_: never.wait(60))

    class Stopped(Progress):
        def check(self):
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        run(workspace, Stopped())
    assert latest_result(workspace.results("photos", "tiny", "project")) is None
    never.set()


def test_a_fault_in_the_thread_is_the_jobs(workspace, photos, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr("sslviz.analysis.projection.Projection.fit", broken)
    with pytest.raises(ZeroDivisionError, match="inside"):
        run(workspace)


def test_without_embeddings_it_says_what_to_type(workspace, tmp_path):
    datasets.add_folder(workspace, "photos", folder(tmp_path / "p", {"train/a": 2}))
    small_encoder(workspace)
    with pytest.raises(NotFound, match="sslviz embed --dataset photos --encoder tiny"):
        run(workspace)


def test_a_map_of_embeddings_that_changed_meanwhile_is_stale(workspace, photos, monkeypatch):
    from sslviz.analysis import projection

    fit = projection.Projection.fit

    def slow(self, H):
        embed(EmbedSettings(dataset="photos", encoder="tiny", store_dtype="float16"), workspace, Progress())
        return fit(self, H)

    monkeypatch.setattr(projection.Projection, "fit", slow)
    run(workspace)
    found = datasets.load(workspace, "photos")
    assert inputs.result_state(workspace, found, "tiny", "project")[0] == "stale"
