"""The compression curve as a job."""

from dataclasses import replace

import numpy as np
import pytest

from sslviz import compression_curve, linear_probe, select_features
from sslviz.analysis import compression
from sslviz.analysis import probe as probes
from sslviz.analysis.probe import held_out
from sslviz.analysis.softmax import Design
from sslviz.data import dataset as datasets
from sslviz.errors import Cancelled, InputError
from sslviz.jobs import inputs
from sslviz.jobs.compress import CompressSettings, compress
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.inputs import left_to_group, open_embedded
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
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
    expected = compression_curve(H, y, T, t, "auto", l2=1e-2)
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
    assert "read again at each pass" in read["notes"][0]
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


def test_what_is_left_out_is_counted(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    layout = {"train/cat": 9, "train/dog": 8, "train/emu": 1, "test/cat": 4, "test/dog": 3, "test/fox": 2}
    root = folder(tmp_path / "photos", layout)
    picture(0, kind=0).save(root / "test" / "loose.png")
    datasets.add_folder(workspace, "photos", root)
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    summary = run(workspace, l2=1e-2)
    assert (summary["n_judged"], summary["n_unknown"]) == (7, 3)
    assert "3 images have no class that occurs in train and are not judged" in summary["notes"]
    assert "1 classes have one train image only: emu" in summary["notes"]
    design = Design(*arrays(workspace, "train")[:2])
    assert summary["n_constant"] == design.n_features - len(design.columns)
    assert not any("of those tried" in note for note in summary["notes"])  # it was given


def test_the_seed_is_of_folds_and_intervals(place):  # noqa: F811
    first, same, other = (run(place, l2=1e-2, seed=seed)["at_40"]["random"]["interval"] for seed in (0, 0, 1))
    assert first == same != other


def test_fits_that_did_not_end_are_said(place, monkeypatch):  # noqa: F811
    fit = compression.fit_lbfgs
    monkeypatch.setattr(compression, "fit_lbfgs", lambda *a, **k: replace(fit(*a, **k), converged=False))
    assert "81 of 81 probes stopped without converging" in run(place, l2=1e-2)["notes"]


def test_what_is_enough_is_read_off_the_curve(place):  # noqa: F811
    summary = run(place, l2=1e-2)
    found = latest_result(place.results("photos", "tiny", "compress")).table("curve")
    for kind, enough in summary["enough"].items():
        lost = 100 * (summary["top1"] - found[found["kind"] == kind].groupby("reduction")["top1"].mean()).round(9)
        for points in (1, 2):
            beyond = lost[lost > points]
            assert enough[str(points)] == (beyond.index[0] if len(beyond) else None)


def test_the_command_prints_the_curve(place, capsys, monkeypatch):  # noqa: F811
    from rich.console import Console

    from sslviz.cli import results

    result = run(place, l2=1e-2)
    monkeypatch.setattr(results, "out", Console(width=200))
    results.print_result("compress", result, place)
    printed = capsys.readouterr().out
    said = " ".join(printed.split())
    assert f"full width (32) {100 * result['top1']:.1f}; eps {result['eps']:g}, L2 0.01:" in said
    at = result["at_40"]["discriminative"]
    low, high = (f"{100 * v:.1f}" for v in at["interval"])
    more, least, most = (f"{100 * v:+.1f}" for v in at["above_random"])
    lost = f"discriminative: {100 * at['drop']:.1f} points lost at 40 % (95 % {low} to {high}), {more} beside random ones"
    assert f"{lost} ({least} to {most}); first more than 1 at" in said
    curve = latest_result(place.results("photos", "tiny", "compress")).table("curve")
    line = curve[curve["reduction"] == 0.9].groupby("kind")["top1"].mean()
    rows = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in printed.splitlines()]
    assert ["90 %", "3", *(f"{100 * line[kind]:.1f}" for kind in compression.KINDS)] in rows


def test_memory_that_a_group_is_left_with(tmp_path):
    """A job within a container: each with a limit of its own, and files in the cache that can be given back."""
    for at, most, used, cache in (
        ("", None, 0, 0),
        ("box", 10_000, 4_000, 1_000),
        ("box/job", "max", 3_000, 0),
        ("box/job/step", 6_000, 1_000, 500),
    ):
        (tmp_path / "fs" / at).mkdir(parents=True, exist_ok=True)
        if most is not None:
            (tmp_path / "fs" / at / "memory.max").write_text(f"{most}\n")
            (tmp_path / "fs" / at / "memory.current").write_text(f"{used}\n")
            (tmp_path / "fs" / at / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")
    (tmp_path / "mine").write_text("1:name=other:/elsewhere\n0::/box/job/step\n")
    assert sorted(left_to_group(tmp_path / "mine", tmp_path / "fs")) == [5_500, 7_000]
    assert left_to_group(tmp_path / "nothing", tmp_path / "fs") == []


def test_what_does_not_fit_counts_its_copies(place, monkeypatch):  # noqa: F811
    embedded = open_embedded(place, "photos", "tiny")
    train = embedded.samples[embedded.samples["split"] == "train"]
    need = len(train) * 32 * 4
    monkeypatch.setattr("sslviz.jobs.inputs.available_memory", lambda: int(need * 3 / 0.8) + 10)
    assert embedded.too_large(3 * len(train)) == ""
    assert "do not fit" in embedded.too_large(3 * len(train) + 1)
    read = []
    blocks = EmbeddingStore.blocks
    monkeypatch.setattr(EmbeddingStore, "blocks", lambda store, rows: read.append(len(rows)) or blocks(store, rows))
    assert not any("do not fit" in note for note in run(place, l2=1e-2)["notes"])
    assert read.count(27) == N_PROBES  # the test rows do not fit beside them
    monkeypatch.undo()
    monkeypatch.setattr(inputs, "left_to_group", lambda *_: [12_345])
    assert inputs.available_memory() == 12_345


def test_a_strength_at_the_end_is_said(place, monkeypatch):  # noqa: F811
    monkeypatch.setattr(probes, "L2_PATH", (1e-2,))
    assert any("is the strongest of those tried" in note for note in run(place)["notes"])


def test_without_labels_it_says_so(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train": 8, "test": 3}))
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    with pytest.raises(InputError, match="needs two classes"):
        run(workspace)
