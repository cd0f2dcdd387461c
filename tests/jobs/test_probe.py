"""The probe job: what its result holds, and that data which do not fit into memory give the same."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from sslviz import linear_probe
from sslviz.analysis.probe import knn_probe
from sslviz.data import dataset as datasets
from sslviz.errors import InputError
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.probe import ProbeSettings, probe
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace
from tests.inputs import folder, small_encoder

CLASSES = ("bars", "disc", "ring")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("probe")
    workspace = Workspace(root / "w").create()
    layout = {f"{s}/{c}": n for s, n in (("train", 14), ("test", 9)) for c in CLASSES}
    datasets.add_folder(workspace, "photos", folder(root / "photos", layout))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny", chunk_rows=10), workspace, Progress())
    return workspace


def run(workspace, **options):
    summary = probe(ProbeSettings(dataset="photos", encoder="tiny", **options), workspace, Progress())
    return summary, latest_result(workspace.results("photos", "tiny", "probe"))


def arrays(workspace, split):
    store = EmbeddingStore(workspace.embeddings("photos", "tiny"))
    rows = store.rows()[["sample_id", "row"]].merge(datasets.load(workspace, "photos").samples, on="sample_id").sort_values("row")
    rows = rows[rows["split"] == split]
    return store.read(rows["row"].to_numpy()), rows["label"].to_numpy(), rows["sample_id"].to_numpy()


def test_what_a_result_holds(place):
    summary, result = run(place, knn=5)
    (H, y, _), (T, t, ids) = arrays(place, "train"), arrays(place, "test")
    library = linear_probe(H, y, T, t)
    table = result.table("predictions").set_index("sample_id").loc[ids]
    np.testing.assert_array_equal(table["prediction"], library.predictions)
    np.testing.assert_allclose(np.stack(table["probabilities"]), library.probabilities, atol=1e-4)
    assert summary["top1"] == pytest.approx(library.top1)
    found = result.table("confusion").pivot(index="label", columns="prediction", values="n").reindex(range(3), columns=range(3))
    np.testing.assert_array_equal(found.fillna(0).to_numpy(), confusion_matrix(t, library.predictions, labels=range(3)))
    by_class = result.table("classes").set_index("label")
    for label in range(3):
        assert by_class.loc[label, "top1"] == pytest.approx((library.predictions == t)[t == label].mean())
        assert by_class.loc[label, "n"] == 9
    sure, right = library.probabilities.max(1), library.predictions == t
    place_of = np.minimum((sure * 15).astype(int), 14)
    gaps = [abs(right[place_of == b].mean() - sure[place_of == b].mean()) * (place_of == b).mean() for b in set(place_of)]
    assert summary["ece"] == pytest.approx(sum(gaps), abs=1e-4)
    assert summary["knn_top1"] == pytest.approx((knn_probe(H, y, T, k=5) == t).mean())
    best = np.argsort(-library.probabilities, axis=1)
    np.testing.assert_array_equal(np.stack(table["top5"]), best)  # of three classes all
    np.testing.assert_allclose(np.stack(table["top5_probability"]), np.take_along_axis(library.probabilities, best, 1), atol=1e-4)
    assert run(place, knn=0)[0]["knn_top1"] is None


def test_what_is_cut_short_is_said(place, monkeypatch):
    from sslviz.analysis import rivals
    from sslviz.jobs import probe as module

    monkeypatch.setattr(rivals, "MAX_TRAIN_ROWS", 10)
    monkeypatch.setattr(module, "_MOST_PROBABILITIES", 27 * 3 - 1)
    summary, result = run(place, knn=5)
    assert "nearest neighbours vote among 10 of the 42 train images, drawn with the seed" in summary["notes"]
    assert any("not the probabilities of all" in note for note in summary["notes"])
    assert "probabilities" not in result.table("predictions")
    assert "top5" in result.table("predictions")
    monkeypatch.setattr(module, "_MOST_PROBABILITIES", 27 * 3)
    (H, y, _), (T, t, _) = arrays(place, "train"), arrays(place, "test")
    summary, result = run(place, knn=5, seed=3)
    assert "probabilities" in result.table("predictions")
    drawn = np.sort(np.random.default_rng(3).choice(42, 10, replace=False))
    assert summary["knn_top1"] == pytest.approx((knn_probe(H[drawn], y[drawn], T, k=5) == t).mean())


def test_the_solvers_end_is_said(place, monkeypatch):
    from dataclasses import replace

    from sslviz.analysis import softmax

    fit = softmax.fit_lbfgs
    assert run(place)[0]["converged"] is True
    monkeypatch.setattr(softmax, "fit_lbfgs", lambda *a, **k: replace(fit(*a, **k), converged=False))
    summary, _ = run(place, l2=1e-2)
    assert summary["converged"] is False
    assert any("without converging" in note for note in summary["notes"])


def test_embeddings_that_do_not_fit_into_memory_give_the_same(place, monkeypatch):
    held, _ = run(place, l2=1e-2)
    before = latest_result(place.results("photos", "tiny", "probe")).table("predictions")
    monkeypatch.setattr("sslviz.jobs.inputs.available_memory", lambda: 1000)
    read, result = run(place, l2=1e-2)
    assert "do not fit into memory" in read["notes"][0]
    assert read["top1"] == held["top1"]
    np.testing.assert_allclose(result.table("predictions")["confidence"], before["confidence"], atol=2e-3)
    with pytest.raises(InputError, match="out-of-fold predictions and sgd100 need"):
        run(place, protocol="sgd100")
    with pytest.raises(InputError, match="out-of-fold predictions and sgd100 need"):
        run(place, train_predictions=True)


def test_the_command_says_how_the_solver_ended(place, capsys, monkeypatch):
    from rich.console import Console

    from sslviz.cli import results

    monkeypatch.setattr(results, "out", Console(width=200))
    for options, words in (({"protocol": "sgd100"}, "100 epochs of SGD."), ({"l2": 1e-2}, "iterations.")):
        summary, _ = run(place, **options)
        results.print_result("probe", summary, place)
        assert words in capsys.readouterr().out
        assert summary["converged"] is (None if "protocol" in options else True)


def test_the_papers_protocol(place):
    summary, _ = run(place, protocol="sgd100")
    assert (summary["protocol"], summary["iterations"], summary["l2"]) == ("sgd100", 100, 0)
    assert summary["top1"] > 0.45  # chance: a third
    for wrong in ({"train_predictions": True}, {"l2": 0.1}):  # folds would be of another probe; there is no L2
        with pytest.raises(InputError, match="sgd100 has no L2 and judges test or val images only"):
            run(place, protocol="sgd100", **wrong)


def test_a_test_split_without_labels_is_not_judged_where_val_has_some(tmp_path):
    """ImageNet as Kaggle has it."""
    workspace = Workspace(tmp_path / "w").create()
    layout = {"train/cat": 10, "train/dog": 10, "val/cat": 5, "val/dog": 5, "test": 7}
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", layout))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    summary, result = run(workspace)
    assert (summary["judged_on"], summary["n_judged"]) == ("val", 10)
    assert (result.table("predictions")["split"] == "test").sum() == 7
