"""Embed, probe and score on small pictures, run as library calls."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.metrics import roc_auc_score

from sslviz import q_score, select_features
from sslviz.data import dataset as datasets
from sslviz.data import thumbs
from sslviz.data.images import fit
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, save_encoder
from sslviz.errors import Cancelled, InputError, NotFound, Stale
from sslviz.jobs import inputs
from sslviz.jobs.analyze import AnalyzeSettings, analyze
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.import_arrays import ImportSettings, import_arrays
from sslviz.jobs.probe import ProbeSettings, probe
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from sslviz.store.files import write_json
from sslviz.store.results import latest_result
from tests.inputs import encoded, folder, picture, pixels, planted, small_encoder

QUIET = Progress()


@pytest.fixture
def photos(tmp_path, workspace):
    """Three classes, 24 train and 12 val pictures, and an untrained small encoder."""
    root = folder(tmp_path / "photos", {f"{s}/{c}": n for s, n in (("train", 8), ("val", 4)) for c in ("disc", "ring", "bars")})
    datasets.add_folder(workspace, "photos", root)
    small_encoder(workspace)
    return root


def run_embed(workspace, dataset="photos", **options):
    return embed(EmbedSettings(dataset=dataset, encoder="tiny", **options), workspace, QUIET)


def run_score(workspace, dataset="photos", **options):
    return score(ScoreSettings(dataset=dataset, encoder="tiny", **options), workspace, QUIET)


def store_of(workspace, dataset="photos"):
    return EmbeddingStore(workspace.embeddings(dataset, "tiny"))


def test_embeddings_are_the_encoders_by_id(workspace, photos):
    result = run_embed(workspace, batch_size=5, chunk_rows=7)
    assert (result["n"], result["computed"], result["bad"]) == (36, 36, [])
    store, encoder = store_of(workspace), load_encoder(workspace, "tiny")
    rows = store.rows().set_index("sample_id")["row"]
    import torch
    from PIL import Image

    for sample_id in ("train/bars/003.png", "val/ring/001.png"):
        alone = encoder.embed(pixels(Image.open(photos / sample_id))[None]).numpy()
        stored = store.read(np.array([rows[sample_id]]))
        assert_allclose(stored, alone, atol=1e-5 * float(torch.tensor(alone).max()))
    samples = datasets.load(workspace, "photos").samples
    assert samples["sha256"].notna().all()
    assert set(samples["width"]) == {32}
    index = thumbs.index(workspace.dataset("photos")).set_index("sample_id")
    line = index.loc["val/ring/001.png"]
    content = thumbs.read_thumb(workspace.dataset("photos"), line["pack"], int(line["offset"]), int(line["size"]))
    assert content == (photos / "val/ring/001.png").read_bytes()


def test_scores_are_the_equations_on_the_stored_rows(workspace, photos):
    run_embed(workspace)
    result = run_score(workspace, eps=1.5)
    found = latest_result(workspace.results("photos", "tiny", "score"))
    table = found.table("scores").set_index("sample_id")
    store = store_of(workspace)
    rows = store.rows()
    train = rows[rows["sample_id"].str.startswith("train/")]
    selection = select_features(store.read(train["row"].to_numpy()), 1.5)
    expected = q_score(store.read(rows["row"].to_numpy()), selection)
    assert_allclose(table.loc[rows["sample_id"], "q"], expected, atol=1e-7)
    paper = q_score(store.read(rows["row"].to_numpy()), select_features(store.read(train["row"].to_numpy()), 4.0))
    assert_allclose(table.loc[rows["sample_id"], "q_paper"], paper, atol=1e-7)
    features = found.table("features")
    assert features.loc[features["chosen"], "feature"].tolist() == selection.features.tolist()
    predictions = latest_result(workspace.results("photos", "tiny", "probe")).table("predictions").set_index("sample_id")
    val = predictions[predictions["split"] == "val"]
    correct = val["correct"].astype(bool)
    assert correct.nunique() == 2
    assert result["reports"]["q"]["auroc"] == pytest.approx(roc_auc_score(correct, table.loc[val.index, "q"]))
    assert result["judged_on"] == "val"
    assert set(result["reports"]) == {"q", "q_paper", "msp", "nn1", "nn10", "norm", "std"}
    assert [w["q"] for w in result["worst"]] == sorted(table.loc[table["split"] == "val", "q"])[:10]


def test_bad_files_are_listed_and_shift_nothing(workspace, photos, tmp_path):
    clean = folder(tmp_path / "clean", {"train/disc": 6, "train/ring": 6})
    datasets.add_folder(workspace, "clean", clean)
    run_embed(workspace, "clean")
    dirty = folder(tmp_path / "dirty", {"train/disc": 6, "train/ring": 6})
    jpeg, png = encoded(picture(61, 96, 96), "JPEG"), encoded(picture(62, 96, 96))
    (dirty / "train/disc/001b.jpg").write_bytes(jpeg[: len(jpeg) * 6 // 10])
    (dirty / "train/disc/002b.png").write_bytes(png[: len(png) // 2])
    (dirty / "train/disc/003b.jpg").write_bytes(b"")
    (dirty / "train/disc/004b.png").write_text("<html>404</html>")
    (dirty / "train/disc/005b.jpg").mkdir()
    datasets.add_folder(workspace, "dirty", dirty)
    result = run_embed(workspace, "dirty", batch_size=4, chunk_rows=5)
    assert {b["sample_id"].rsplit("/")[-1]: b["error"].split(" (")[0].split(",")[0] for b in result["bad"]} == {
        "001b.jpg": "damaged picture",
        "002b.png": "damaged picture",
        "003b.jpg": "empty file",
        "004b.png": "an HTML page",
        "005b.jpg": "a folder",
    }
    a, b = store_of(workspace, "clean"), store_of(workspace, "dirty")
    rows_a, rows_b = (s.rows().set_index("sample_id")["row"] for s in (a, b))
    assert set(rows_a.index) == set(rows_b.index)
    assert_allclose(b.read(rows_b[rows_a.index].to_numpy()), a.read(rows_a.to_numpy()), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"5 files are not readable images \(--strict\): train/disc/001b.jpg"):
        run_embed(workspace, "dirty", strict=True)


def test_files_that_could_not_be_read_are_tried_again(workspace, photos, monkeypatch):
    """A disk that was away for a moment."""
    gone = {str(photos / "train/disc" / f"{k:03d}.png") for k in range(3)}
    read = Path.read_bytes

    def away(path):
        if str(path) in gone:
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "read_bytes", away)
        first = run_embed(workspace)
    assert (first["n"], len(first["bad"])) == (33, 3)
    again = run_embed(workspace)
    assert (again["n"], again["computed"], again["bad"]) == (36, 3, [])
    assert run_embed(workspace)["computed"] == 0


def test_an_edited_folder_is_stale_and_only_the_edit_is_computed(workspace, photos):
    run_embed(workspace)
    run_score(workspace)
    os.remove(photos / "train/disc/002.png")
    picture(999, kind=3).save(photos / "train/disc/008.png")
    path = photos / "train/ring/003.png"
    stat = path.stat()
    picture(998, kind=2).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(Stale, match="are stale: files of the data set came, went or changed"):
        run_score(workspace)
    dataset = datasets.load(workspace, "photos")
    assert inputs.result_state(workspace, dataset, "tiny", "score")[0] == "stale"
    result = run_embed(workspace)
    assert (result["n"], result["computed"], result["kept"]) == (36, 2, 34)
    run_score(workspace)
    assert inputs.result_state(workspace, dataset, "tiny", "score")[0] == "fresh"
    encoder, store = load_encoder(workspace, "tiny"), store_of(workspace)
    from PIL import Image

    rows = store.rows().set_index("sample_id")["row"]
    for sample_id in ("train/ring/003.png", "train/disc/008.png", "train/ring/004.png"):
        alone = encoder.embed(pixels(Image.open(photos / sample_id))[None]).numpy()
        assert_allclose(store.read(np.array([rows[sample_id]])), alone, rtol=1e-4, atol=1e-5)


def test_deleting_the_last_file_and_editing_another_keeps_the_rest(workspace, photos):
    run_embed(workspace, chunk_rows=10)
    store, encoder = store_of(workspace), load_encoder(workspace, "tiny")
    last = sorted(datasets.load(workspace, "photos").samples["sample_id"])[-1]
    (photos / last).unlink()
    assert run_embed(workspace)["computed"] == 0
    (photos / "train/bars/007.png").unlink()
    picture(77).save(photos / "train/bars/001.png")
    assert run_embed(workspace)["computed"] == 1
    from PIL import Image

    for sample_id, row in store.rows()[["sample_id", "row"]].itertuples(index=False):
        alone = encoder.embed(pixels(Image.open(photos / sample_id))[None]).numpy()
        assert_allclose(store.read(np.array([row])), alone, rtol=1e-4, atol=1e-5, err_msg=sample_id)


def test_a_damaged_chunk_is_computed_whole_when_one_of_its_files_changes(workspace, photos):
    run_embed(workspace, chunk_rows=10)
    chunk = store_of(workspace).folder / "embeddings.zarr" / "c" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:30])
    picture(77).save(photos / "train/bars/001.png")
    assert run_embed(workspace)["computed"] == 10
    run_score(workspace)


def test_embeddings_keep_the_precision_they_are_stored_in(workspace, photos):
    run_embed(workspace, store_dtype="float16", precision="bf16")
    assert analyze(AnalyzeSettings(dataset="photos", encoder="tiny"), workspace, QUIET)["embed"]["computed"] == 0
    assert run_embed(workspace)["computed"] == 0  # as a button or the remedy in a message has it
    assert run_embed(workspace, store_dtype="float32")["computed"] == 36
    assert store_of(workspace).meta["depends"]["precision"] == "bf16"


def test_results_are_stamped_with_the_embeddings_they_read(workspace, photos, monkeypatch):
    """The encoder is changed and embedded again while a probe is fitted on the embeddings of before."""
    from sslviz.jobs import probe as module

    run_embed(workspace)
    fit = module._fit

    def meanwhile(*args):
        small_encoder(workspace, seed=9)
        run_embed(workspace)
        return fit(*args)

    monkeypatch.setattr(module, "_fit", meanwhile)
    probe(ProbeSettings(dataset="photos", encoder="tiny"), workspace, QUIET)
    assert inputs.result_state(workspace, datasets.load(workspace, "photos"), "tiny", "probe")[0] == "stale"


def test_a_stale_probe_is_made_again_as_it_was(workspace, photos):
    run_embed(workspace)
    probe(ProbeSettings(dataset="photos", encoder="tiny", protocol="sgd100"), workspace, QUIET)
    picture(78).save(photos / "train/bars/001.png")
    run_embed(workspace)
    run_score(workspace)
    again = latest_result(workspace.results("photos", "tiny", "probe"))
    assert again.content["settings"]["protocol"] == "sgd100"


def test_another_encoder_writes_no_thumbnails_again(workspace, photos):
    run_embed(workspace)
    packs = set((workspace.dataset("photos") / "thumbs").iterdir())
    small_encoder(workspace, "other", seed=1)
    embed(EmbedSettings(dataset="photos", encoder="other"), workspace, QUIET)
    assert set((workspace.dataset("photos") / "thumbs").iterdir()) == packs
    picture(79).save(photos / "train/bars/001.png")
    run_embed(workspace)
    assert len(set((workspace.dataset("photos") / "thumbs").glob("*.pack")) - packs) == 1


def test_an_encoder_that_gives_nan_names_the_sample(workspace, photos):
    import torch

    weights = dict(load_encoder(workspace, "tiny").backbone.state_dict())
    weights["expand.1.bias"] = torch.full((32,), float("nan"))
    save_encoder(workspace, load_spec(workspace, "tiny"), weights)
    with pytest.raises(InputError, match='tiny gives NaN or infinity as float32 for sample "train/bars/000.png"'):
        run_embed(workspace)
    assert not store_of(workspace).done()


def test_test_is_judged_before_val(workspace, tmp_path):
    small_encoder(workspace)
    layout = {f"{s}/{c}": 6 for s in ("train", "val", "test") for c in ("disc", "ring")}
    datasets.add_folder(workspace, "both", folder(tmp_path / "both", layout))
    run_embed(workspace, "both")
    assert run_score(workspace, "both")["judged_on"] == "test"


def test_files_that_come_back_get_their_own_vectors(workspace, photos):
    run_embed(workspace)
    kept = {p: p.read_bytes() for p in [photos / f"train/bars/00{i}.png" for i in range(3)]}
    for path in kept:
        path.unlink()
    run_embed(workspace)
    for path, content in list(kept.items())[1:]:  # the first stays away: the others may move to other rows
        path.write_bytes(content)
    run_embed(workspace)
    encoder, store = load_encoder(workspace, "tiny"), store_of(workspace)
    from PIL import Image

    for sample_id, row in store.rows()[["sample_id", "row"]].itertuples(index=False):
        alone = encoder.embed(pixels(Image.open(photos / sample_id))[None]).numpy()
        assert_allclose(store.read(np.array([row])), alone, rtol=1e-4, atol=1e-5, err_msg=sample_id)


def test_a_new_time_alone_computes_nothing(workspace, photos):
    run_embed(workspace)
    for path in photos.rglob("*.png"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    assert run_embed(workspace)["computed"] == 0


def test_another_input_makes_results_stale(workspace, photos):
    run_embed(workspace)
    run_score(workspace)
    spec = load_spec(workspace, "tiny")
    weights = load_encoder(workspace, "tiny").backbone.state_dict()
    save_encoder(workspace, spec.model_copy(update={"input": spec.input.model_copy(update={"std": (1, 1, 1)})}), weights)
    with pytest.raises(Stale, match="the encoder .* has changed since"):
        run_score(workspace)


def test_a_new_probe_makes_scores_stale(workspace, photos):
    run_embed(workspace)
    run_score(workspace)
    dataset = datasets.load(workspace, "photos")
    probe(ProbeSettings(dataset="photos", encoder="tiny", l2=0.5), workspace, QUIET)
    assert inputs.result_state(workspace, dataset, "tiny", "score")[:2] == ("stale", "probe has changed since")


class StopsAfter(Progress):
    def __init__(self, images):
        self.left = images

    def advance(self, done=1):
        self.left -= done
        if self.left <= 0:
            raise Cancelled("stop")


def test_a_cancelled_embed_goes_on_at_the_next_whole_chunk(workspace, photos):
    settings = EmbedSettings(dataset="photos", encoder="tiny", batch_size=4, chunk_rows=10)
    with pytest.raises(Cancelled):
        embed(settings, workspace, StopsAfter(25))
    result = embed(settings, workspace, QUIET)
    assert (result["computed"], result["kept"]) == (16, 20)
    whole = store_of(workspace).read(np.arange(36))
    assert run_embed(workspace, digest=True)["computed"] == 0  # every file read again, none has changed
    shutil.rmtree(store_of(workspace).folder)
    assert run_embed(workspace)["computed"] == 36
    assert_allclose(store_of(workspace).read(np.arange(36)), whole, rtol=1e-5, atol=1e-5)


def test_a_full_disk_is_refused_before_the_work(workspace, photos, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match="needs about 0.0 GB .* 0.0 GB are free"):
        run_embed(workspace)


def test_a_refused_embed_leaves_what_is_there(workspace, photos, monkeypatch):
    run_embed(workspace)
    before = store_of(workspace).read(np.arange(36))
    small_encoder(workspace, seed=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=-(10**9)))
    with pytest.raises(InputError, match="GB are free"):
        run_embed(workspace)
    monkeypatch.undo()
    monkeypatch.setattr("sslviz.jobs.embed._seconds_an_image", lambda *_: 1 / 0)  # as a GPU that is full
    with pytest.raises(ZeroDivisionError):
        run_embed(workspace)
    assert_allclose(store_of(workspace).read(np.arange(36)), before, rtol=0)


def test_unlabelled_images_are_scored_without_a_judgement(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "plain", folder(tmp_path / "plain", {".": 20}))
    run_embed(workspace, "plain")
    result = run_score(workspace, "plain")
    assert result["reports"] == {}
    assert result["n"] == 20
    with pytest.raises(InputError, match='a probe needs two classes with train images; data set "plain" has no labels'):
        probe(ProbeSettings(dataset="plain", encoder="tiny"), workspace, QUIET)


def test_one_class_is_scored_but_not_probed(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "one", folder(tmp_path / "one", {"train/disc": 12}))
    run_embed(workspace, "one")
    assert "needs two classes" in " ".join(run_score(workspace, "one")["notes"])
    with pytest.raises(InputError, match="needs two classes with train images; .* has 1"):
        probe(ProbeSettings(dataset="one", encoder="tiny"), workspace, QUIET)


def test_one_image(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "one", folder(tmp_path / "one", {"train/disc": 1}))
    run_embed(workspace, "one")
    assert run_score(workspace, "one")["n"] == 1


def test_without_a_train_split_images_are_embedded_and_no_more(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "v", folder(tmp_path / "v", {"val/disc": 3, "test/disc": 3}))
    assert run_embed(workspace, "v")["n"] == 6
    for job in (lambda: run_score(workspace, "v"), lambda: probe(ProbeSettings(dataset="v", encoder="tiny"), workspace, QUIET)):
        with pytest.raises(InputError, match="has no train images"):
            job()


def test_ten_classes_of_one_image_and_a_lonely_class(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "ten", folder(tmp_path / "ten", {f"train/c{i}": 1 for i in range(10)}))
    run_embed(workspace, "ten")
    assert run_score(workspace, "ten")["judged_on"] == "train"
    layout = {"train/disc": 8, "train/ring": 8, "train/bars": 8, "train/unique": 1}
    datasets.add_folder(workspace, "lonely", folder(tmp_path / "lonely", layout))
    run_embed(workspace, "lonely")
    notes = probe(ProbeSettings(dataset="lonely", encoder="tiny"), workspace, QUIET)["notes"]
    assert any("one train image only: unique" in n for n in notes)


def test_train_is_judged_out_of_fold_where_it_is_all_there_is(workspace, tmp_path):
    small_encoder(workspace)
    datasets.add_folder(workspace, "t", folder(tmp_path / "t", {"train/disc": 10, "train/ring": 10}))
    run_embed(workspace, "t")
    result = run_score(workspace, "t")
    assert (result["judged_on"], result["out_of_fold"]) == ("train", True)
    assert result["reports"]["q"]["n"] == 20


def test_classes_the_probe_does_not_know_are_left_out(workspace, tmp_path):
    small_encoder(workspace)
    layout = {f"train/{c}": 6 for c in ("bread", "cheese", "dates")} | {f"val/{c}": 4 for c in ("apple", "cheese", "dates")}
    datasets.add_folder(workspace, "b", folder(tmp_path / "b", layout))
    run_embed(workspace, "b")
    result = probe(ProbeSettings(dataset="b", encoder="tiny"), workspace, QUIET)
    assert (result["n_judged"], result["n_unknown"]) == (8, 4)
    assert run_score(workspace, "b")["reports"]["q"]["n"] == 8


def test_dead_and_zero_embeddings_are_counted(workspace, photos):
    import torch

    weights = dict(load_encoder(workspace, "tiny").backbone.state_dict())
    weights["expand.1.weight"], weights["expand.1.bias"] = torch.zeros(32), torch.full((32,), -1.0)
    save_encoder(workspace, load_spec(workspace, "tiny"), weights)
    assert run_embed(workspace)["n_zero"] == 36
    assert run_embed(workspace)["computed"] == 0
    result = run_score(workspace)
    assert result["n_zero"] == 36
    assert result["empty_share"] == {"train": 1.0, "val": 1.0}
    assert any("36 embeddings have norm zero" in n for n in result["notes"])


def test_missing_things_say_what_to_type(workspace, photos):
    with pytest.raises(
        NotFound, match="no embeddings of photos by tiny.*Compute them: sslviz embed --dataset photos --encoder tiny"
    ):
        run_score(workspace)
    with pytest.raises(NotFound, match='unknown data set "fotos". Did you mean "photos"'):
        run_embed(workspace, "fotos")


# ---- arrays made elsewhere


def test_arrays_join_a_folder_by_id(workspace, photos, tmp_path):
    run_embed(workspace)
    store = store_of(workspace)
    rows = store.rows()
    H = store.read(rows["row"].to_numpy())
    order = np.random.default_rng(0).permutation(len(rows))
    np.savez(tmp_path / "h.npz", embeddings=H[order][:-1], ids=rows["sample_id"].to_numpy(dtype=str)[order][:-1])
    settings = ImportSettings(file=str(tmp_path / "h.npz"), dataset="photos", encoder="other")
    result = import_arrays(settings, workspace, QUIET)
    assert result["notes"] == ["1 samples have no embedding and are left out"]
    ours = score(ScoreSettings(dataset="photos", encoder="tiny", eps=1.0), workspace, QUIET)
    theirs = score(ScoreSettings(dataset="photos", encoder="other", eps=1.0), workspace, QUIET)
    a = latest_result(workspace.results("photos", "tiny", "score")).table("scores").set_index("sample_id")["norm"]
    b = latest_result(workspace.results("photos", "other", "score")).table("scores").set_index("sample_id")["norm"]
    assert_allclose(b, a[b.index], rtol=1e-6)
    assert theirs["n"] == ours["n"] - 1
    with pytest.raises(InputError, match="was imported as arrays .* no weights to embed with"):
        embed(EmbedSettings(dataset="photos", encoder="other"), workspace, QUIET)
    assert analyze(AnalyzeSettings(dataset="photos", encoder="other"), workspace, QUIET)["n"] == theirs["n"]


def test_one_encoder_on_two_data_sets(workspace, tmp_path):
    H, y = planted(120)
    for name, rows in (("first", H), ("second", H[:60])):
        np.savez(tmp_path / f"{name}.npz", h=rows, labels=y[: len(rows)])
        import_arrays(ImportSettings(file=str(tmp_path / f"{name}.npz"), dataset=name, encoder="e"), workspace, QUIET)
    assert score(ScoreSettings(dataset="first", encoder="e"), workspace, QUIET)["n"] == 120
    np.savez(tmp_path / "wide.npz", h=H[:, :32])
    assert datasets.load(workspace, "first").has_labels
    np.savez(tmp_path / "bare.npz", h=H[:, :40], ids=np.array([f"row-{i:07d}" for i in range(120)]))
    import_arrays(ImportSettings(file=str(tmp_path / "bare.npz"), dataset="first", encoder="bare"), workspace, QUIET)
    assert datasets.load(workspace, "first").has_labels  # a second import joins the data set, it does not replace it
    assert score(ScoreSettings(dataset="first", encoder="bare"), workspace, QUIET)["reports"]
    with pytest.raises(InputError, match='encoder "e" is another one'):
        import_arrays(ImportSettings(file=str(tmp_path / "wide.npz"), dataset="third", encoder="e"), workspace, QUIET)
    assert workspace.datasets() == ["first", "second"]
    np.savez(tmp_path / "first.npz", h=H * 2, labels=y)  # the same samples again: results know that they changed
    import_arrays(ImportSettings(file=str(tmp_path / "first.npz"), dataset="first", encoder="e"), workspace, QUIET)
    assert inputs.result_state(workspace, datasets.load(workspace, "first"), "e", "score")[0] == "stale"


def test_arrays_alone_are_a_data_set(workspace, tmp_path):
    H, y = planted(300)
    np.save(tmp_path / "h.npy", H.astype(np.float16))
    (tmp_path / "y.txt").write_text("\n".join(f"class {k}" for k in y))
    (tmp_path / "s.txt").write_text("\n".join(["train"] * 200 + ["test"] * 100))
    files = {"labels": str(tmp_path / "y.txt"), "splits": str(tmp_path / "s.txt")}
    import_arrays(ImportSettings(file=str(tmp_path / "h.npy"), dataset="arr", encoder="e", **files), workspace, QUIET)
    result = score(ScoreSettings(dataset="arr", encoder="e"), workspace, QUIET)
    assert result["judged_on"] == "test"
    assert result["reports"]["msp"]["auroc"] > 0.6  # dim rows are hard by construction
    dataset = datasets.load(workspace, "arr")
    assert dataset.titles == ["class 0", "class 1", "class 2", "class 3"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (dict(h=np.ones((3, 4))), "4 features; an encoder has at least 8"),
        (dict(h=np.full((3, 9), np.nan)), "NaN in row 0 of 3, column 0"),
        (dict(h=np.ones((3, 9)), ids=np.array(["a", "a", "b"])), 'id "a" occurs twice'),
        (dict(h=np.ones((3, 9)), labels=np.array([1, 2])), "2 labels for 3 embeddings"),
        (dict(h=np.ones((3, 9)), splits=np.array(["train", "tset", "train"])), 'split "tset" is unknown'),
        (dict(other=np.ones((3, 9))), "holds other; expected an array named"),
        (dict(h=np.ones((3, 9)), ids=np.array([object()] * 3)), "holds Python objects"),
    ],
)
def test_bad_arrays_are_refused(workspace, tmp_path, content, words):
    np.savez(tmp_path / "h.npz", **content)
    with pytest.raises(InputError, match=words):
        import_arrays(ImportSettings(file=str(tmp_path / "h.npz"), dataset="arr", encoder="e"), workspace, QUIET)
    assert workspace.datasets() == []
    assert workspace.encoders() == []


@pytest.mark.parametrize(
    ("labels", "classes", "known"),
    [
        (np.array([0.0, 1.0, np.nan, -1.0] * 3), ["0", "1"], 6),
        (np.array(["--2", "a", "", "b"] * 3), ["--2", "a", "b"], 9),
        (np.array([0.5, 1.5] * 6), ["0.5", "1.5"], 12),
        (np.array([10, 9, 2, 10] * 3), ["2", "9", "10"], 12),
    ],
)
def test_labels_as_people_write_them(workspace, tmp_path, labels, classes, known):
    np.savez(tmp_path / "h.npz", h=np.random.default_rng(0).random((12, 9)), labels=labels)
    import_arrays(ImportSettings(file=str(tmp_path / "h.npz"), dataset="arr", encoder="e"), workspace, QUIET)
    dataset = datasets.load(workspace, "arr")
    assert dataset.classes == classes
    assert (dataset.samples["label"] >= 0).sum() == known


def test_numbers_too_large_for_float32_are_refused(workspace, tmp_path):
    np.savez(tmp_path / "h.npz", h=np.full((3, 9), 1e300))
    with pytest.raises(InputError, match="as float32 has infinity in row 0 of 3, column 0"):
        import_arrays(ImportSettings(file=str(tmp_path / "h.npz"), dataset="arr", encoder="e"), workspace, QUIET)


def test_ids_of_another_data_set_are_refused(workspace, photos, tmp_path):
    np.savez(tmp_path / "h.npz", h=np.ones((3, 9)), ids=np.array(["x", "y", "z"]))
    with pytest.raises(InputError, match='none of the 3 ids is a sample of data set "photos"'):
        import_arrays(ImportSettings(file=str(tmp_path / "h.npz"), dataset="photos", encoder="e"), workspace, QUIET)


@pytest.mark.parametrize(("shift", "apart"), [(3.0, True), (0.9, False), (0.0, None)])
def test_a_better_rival_is_found_and_said(shift, apart):
    from sslviz import evaluate_score
    from sslviz.jobs.score import _best_rival

    rng = np.random.default_rng(0)
    correct = rng.random(150) < 0.6
    reports = {
        "q": evaluate_score(rng.normal(correct * 0.7, 1), correct),
        "nn1": evaluate_score(rng.normal(correct * shift, 1), correct),
        "msp": evaluate_score(correct + 0.0, correct),  # uses labels: never the rival that is named
    }
    found = _best_rival(reports)
    assert (found and found["apart"]) == apart
    if found:
        assert found["name"] == "nn1"
        assert ("is better here" in found["words"]) == apart


def test_neighbours_and_class_shares_are_of_train_images(workspace, tmp_path):
    from sklearn.neighbors import NearestNeighbors

    from tests import reference

    layout = {f"{s}/{c}": n for s, n in (("test", 5), ("train", 9)) for c in ("disc", "ring")}  # test sorts before train
    datasets.add_folder(workspace, "photos", folder(tmp_path / "p", layout))
    small_encoder(workspace)
    run_embed(workspace)
    result = run_score(workspace)
    made = latest_result(workspace.results("photos", "tiny", "score"))
    store = store_of(workspace)
    rows = store.rows().set_index("sample_id")["row"]
    train = sorted(s for s in rows.index if s.startswith("train/"))
    H_train = store.read(rows[train].to_numpy()).astype(float)
    near = made.table("neighbours").set_index("sample_id")
    for sample_id in ("test/ring/003.png", "train/disc/002.png"):
        h = store.read(rows[[sample_id]].to_numpy()).astype(float)
        others = [k for k, s in enumerate(train) if s != sample_id]
        _, found = NearestNeighbors(n_neighbors=10, metric="cosine").fit(H_train[others]).kneighbors(h)
        assert list(near.loc[sample_id, "neighbours"]) == [train[others[k]] for k in found[0]]
    classes = made.table("feature_classes")
    fires = np.array(reference.firing(H_train, result["eps"]))
    ring = np.array(["/ring/" in s for s in train])
    expected = 100 * fires[ring].mean(0)
    label = datasets.load(workspace, "photos").titles.index("ring")
    assert_allclose(classes[classes["label"] == label].sort_values("feature")["share"], expected, atol=1e-3)


def test_a_cancelled_probe_ends_at_once(workspace, photos, monkeypatch):
    import threading

    run_embed(workspace)
    never = threading.Event()
    monkeypatch.setattr("sslviz.analysis.probe.choose_l2", lambda *_, **__: never.wait(60))

    class Stopped(Progress):
        def check(self):
            raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        probe(ProbeSettings(dataset="photos", encoder="tiny"), workspace, Stopped())
    never.set()


def test_pictures_are_resized_before_they_are_cropped(workspace, tmp_path):
    small_encoder(workspace)
    spec = load_spec(workspace, "tiny")
    wide = spec.model_copy(update={"input": spec.input.model_copy(update={"size": 24, "resize": 32})})
    write_json(workspace.encoder("tiny") / "encoder.json", wide.model_dump(mode="json"))
    (tmp_path / "p" / "train").mkdir(parents=True)
    shown = picture(3, 60, 40)
    shown.save(tmp_path / "p" / "train" / "a.png")
    datasets.add_folder(workspace, "photos", tmp_path / "p")
    run_embed(workspace)
    expected = load_encoder(workspace, "tiny").embed(fit(pixels(shown), 32, 24)[None]).numpy()
    assert_allclose(store_of(workspace).read(np.arange(1)), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, load_encoder(workspace, "tiny").embed(fit(pixels(shown), 24, 24)[None]).numpy(), rtol=1e-2)


def test_an_edit_that_keeps_the_size_is_seen_by_its_time_and_a_digest_sees_all(workspace, tmp_path):
    small_encoder(workspace)
    root = tmp_path / "p" / "train"
    root.mkdir(parents=True)
    for k in range(3):
        picture(k, 32, 32).save(root / f"{k}.bmp")  # of one size whatever they show
    datasets.add_folder(workspace, "photos", tmp_path / "p")
    run_embed(workspace)
    before, path = datasets.load(workspace, "photos").fingerprint, root / "1.bmp"
    about = path.stat()
    picture(9, 32, 32).save(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))
    assert datasets.refresh(workspace, "photos")[0].fingerprint != before
    assert run_embed(workspace)["computed"] == 1
    about = path.stat()
    picture(10, 32, 32).save(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert run_embed(workspace)["computed"] == 0
    assert run_embed(workspace, digest=True)["computed"] == 1


def test_after_a_bad_file_its_chunk_can_still_change(workspace, photos):
    (photos / "train" / "disc" / "000.png").write_text("<html>")
    assert len(run_embed(workspace)["bad"]) == 1
    picture(50, 32, 32).save(photos / "train" / "disc" / "more.png")
    assert run_embed(workspace)["computed"] == 1


def test_numbers_too_large_for_half_precision_are_said(workspace, photos):
    spec, weights = load_spec(workspace, "tiny"), load_weights(workspace, load_spec(workspace, "tiny"))
    loud = {name: tensor * (1e9 if name == "expand.1.weight" else 1) for name, tensor in weights.items()}
    save_encoder(workspace, spec, loud)
    with pytest.raises(InputError, match="infinity as float16"):
        run_embed(workspace, store_dtype="float16")


def test_a_data_set_of_some_classes_stays_one(workspace, tmp_path):
    root, outside = folder(tmp_path / "p", {"train/cat": 2, "train/dog": 2}), folder(tmp_path / "o", {"owl": 1})
    datasets.add_folder(workspace, "photos", root, ["cat"], inside=[root])
    (root / "train" / "cat" / "link.png").symlink_to(outside / "owl" / "000.png")
    picture(70, 32, 32).save(root / "train" / "cat" / "new.png")
    found, _ = datasets.refresh(workspace, "photos")
    assert found.classes == ["cat"]
    assert sorted(found.samples["sample_id"]) == [f"train/cat/{n}.png" for n in ("000", "001", "new")]
