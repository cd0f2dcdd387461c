"""The compression curve as a job."""

import numpy as np
import pytest

from sslviz import compression_curve, linear_probe, select_features
from sslviz.analysis import compression
from sslviz.analysis.probe import held_out
from sslviz.data import dataset as datasets
from sslviz.errors import Cancelled, InputError
from sslviz.jobs.compress import CompressSettings, compress
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.progress import Progress
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace
from tests.inputs import folder, picture, small_encoder
from tests.jobs.test_probe import arrays, place  # noqa: F401 (a fixture)

N_PROBES = 1 + 10 * 8


def run(workspace, progress=None, dataset="photos", **options):
    return compress(CompressSettings(dataset=dataset, encoder="tiny", **options), workspace, progress or Progress())


def test_the_job_is_the_library_function_on_the_stored_rows(place):  # noqa: F811
    summary = run(place, l2=1e-2)
    (H, y, _), (T, t, _) = arrays(place, "train"), arrays(place, "test")
    expected = compression_curve(H, y, T, t, l2=1e-2)
    result = latest_result(place.results("photos", "tiny", "compress"))
    found = result.table("curve")
    assert len(found) == N_PROBES
    assert found[["kind", "reduction", "n_features"]].equals(expected[["kind", "reduction", "n_features"]])
    np.testing.assert_allclose(found["top1"], expected["top1"], atol=1.01 / len(t))  # warm starts: one image at most
    at_40 = found[found["reduction"] == 0.4].groupby("kind")["top1"].mean()
    for kind, at in summary["at_40"].items():
        assert at["drop"] == pytest.approx(summary["top1"] - at_40[kind])
    assert result.table("shares")["share"].between(0, 100).all()
    assert summary["judged_on"] == "test"


def test_a_stopped_run_goes_on_where_it_was(place, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("sslviz.jobs.compress._SAVE_EVERY", -1.0)
    fitted, fit = [], compression.fit_lbfgs
    monkeypatch.setattr(compression, "fit_lbfgs", lambda *args, **kwargs: fitted.append(1) or fit(*args, **kwargs))

    class Stops(Progress):
        def __init__(self, after):
            self.folder, self.left, self.fitting = tmp_path, after, False

        def stage(self, name, total=0):
            self.fitting = name == "fitting probes"

        def advance(self, done=1):
            self.left -= self.fitting
            if self.left == 0:
                raise Cancelled("enough")

    with pytest.raises(Cancelled):
        run(place, Stops(30), l2=1e-2)
    assert len(fitted) == 30
    resumed = run(place, Stops(-1), l2=1e-2)
    assert len(fitted) == 30 + N_PROBES - 30 + 1  # the full width again: what the others start from
    whole = run(place, l2=1e-2)
    for kind in compression.KINDS:
        assert resumed["at_40"][kind]["drop"] == pytest.approx(whole["at_40"][kind]["drop"], abs=1.01 / 27)


def test_embeddings_that_do_not_fit_into_memory_give_the_same(place, monkeypatch):  # noqa: F811
    held = run(place, l2=1e-2)
    monkeypatch.setattr("sslviz.jobs.inputs.available_memory", lambda: 1000)
    read = run(place, l2=1e-2)
    assert "read anew at each pass" in read["notes"][0]
    assert read["top1"] == held["top1"]


def test_without_a_test_split_a_fifth_of_train_is_judged(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train/cat": 20, "train/dog": 15}))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    summary = run(workspace, l2=1e-2)
    assert (summary["judged_on"], summary["n_judged"]) == ("held-out train", 7)
    H, y, _ = arrays(workspace, "train")
    out = held_out(y)
    own = linear_probe(H[~out], y[~out], H[out], y[out], l2=1e-2)  # by a probe that has not seen them
    assert summary["top1"] == pytest.approx(own.top1)
    shares = latest_result(workspace.results("photos", "tiny", "compress")).table("shares")["share"]
    np.testing.assert_allclose(shares, select_features(H, "auto").shares)  # as `sslviz export` ranks them


def test_images_without_a_class_are_neither_held_out_nor_counted(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    root = folder(tmp_path / "photos", {"train/cat": 5, "train/dog": 5})
    for k in range(30):
        picture(k, kind=k).save(root / "train" / f"loose{k:02d}.png")
    datasets.add_folder(workspace, "photos", root)
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert run(workspace)["n_judged"] == 2


def test_without_labels_it_says_so(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train": 8, "test": 3}))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    with pytest.raises(InputError, match="needs two classes"):
        run(workspace)
