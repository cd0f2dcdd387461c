"""A compressed encoder as a job."""

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sslviz import select_features
from sslviz.analysis.compression import subset
from sslviz.cli import results
from sslviz.data import dataset as datasets
from sslviz.errors import InputError, RunFailed
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.export import ExportSettings, export
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.embeddings import EmbeddingStore
from tests.inputs import folder, small_encoder


@pytest.fixture
def place(workspace, tmp_path):
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train": 12, "test": 6}))  # no labels
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    return workspace


def run(workspace, **options):
    return export(ExportSettings(dataset="photos", encoder="tiny", **options), workspace, Progress())


def rows(workspace, encoder, split="train"):
    store = EmbeddingStore(workspace.embeddings("photos", encoder))
    table = store.rows()
    return store.read(table.loc[table["sample_id"].str.startswith(split), "row"].to_numpy())


@pytest.mark.parametrize(("kind", "reduction"), [("discriminative", 0.4), ("lower tail", 0.75), ("random", 0.5)])
def test_the_new_encoder_embeds_into_the_chosen_columns(place, kind, reduction):
    result = run(place, kind=kind, reduction=reduction, seed=3)
    H = rows(place, "tiny")
    kept = subset(select_features(H, "auto").shares, kind, reduction, 3)
    assert result["features"] == kept.tolist()
    assert (result["n_features"], result["of_features"]) == (len(kept), 32)
    embed(EmbedSettings(dataset="photos", encoder=result["encoder"]), place, Progress())
    np.testing.assert_allclose(rows(place, result["encoder"]), H[:, kept], rtol=1e-5, atol=1e-5 * H.max())
    written = pd.read_csv(place.encoder(result["encoder"]) / "features.csv")
    assert written["feature"].tolist() == kept.tolist()
    np.testing.assert_allclose(written["share"], select_features(H, "auto").shares[kept])
    assert result["bytes_per_embedding"] == [128, 4 * len(kept)]
    before, after = result["weights_mb"]
    assert before - after == pytest.approx((32 - len(kept)) * (32 + 4) * 4 / 1e6)  # 1x1 rows, BatchNorm's four, float32
    score(ScoreSettings(dataset="photos", encoder=result["encoder"]), place, Progress())


def test_the_discriminative_set_itself(place):
    result = run(place, kind="D")
    shares = select_features(rows(place, "tiny"), "auto").shares
    low, high = np.percentile(shares, [50, 95])
    assert result["features"] == np.flatnonzero((low <= shares) & (shares <= high)).tolist()
    assert (result["encoder"], result["reduction"]) == ("tiny-D", 1 - result["n_features"] / 32)


def test_the_speed_is_the_new_ones_over_the_old_ones(place, monkeypatch):
    monkeypatch.setattr("sslviz.jobs.export._images_per_second", lambda whole, small, images: (100.0, 150.0))
    result = run(place)
    assert "1.50 times the images a second" in result["words"]
    assert result["images_per_second"] == [100, 150]


def test_speeds_belong_to_their_encoders(monkeypatch):
    """The first takes a second an image, the second a half."""
    from types import SimpleNamespace

    from sslviz.jobs import export as module

    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    slow, fast = (SimpleNamespace(embed=lambda images, s=s: now.__setitem__(0, now[0] + s * len(images))) for s in (1.0, 0.5))
    assert module._images_per_second(slow, fast, np.zeros(8)) == (1.0, 2.0)


def test_weak_features_are_compared_on_the_whole_rows_scale(place, monkeypatch):
    """Rounding that is small beside the row may be large beside a feature that hardly fires."""
    from sslviz.encoders import run as encoders

    build = encoders.build_encoder

    def with_a_loud_feature(spec, weights):
        encoder = build(spec, weights)
        embed_ = encoder.embed
        noise = 3e-6 if spec.feature_dim < 32 else 0.0

        def shown(images):
            h = embed_(images) * 1e-3 + noise
            if spec.feature_dim == 32:
                h[:, 0] = 1.0
            return h

        monkeypatch.setattr(encoder, "embed", shown, raising=False)
        return encoder

    monkeypatch.setattr(encoders, "build_encoder", with_a_loud_feature)
    H = rows(place, "tiny")
    kept = subset(select_features(H, "auto").shares, "lower tail", 0.5)
    assert 0 not in kept
    assert run(place, kind="lower tail", reduction=0.5, name="weak")["difference"] <= 1e-5


def test_names(place):
    assert ExportSettings(dataset="d", encoder="e", kind="lower tail", reduction=0.55).new_name == "e-lower-tail-55"
    assert ExportSettings(dataset="d", encoder="e", kind="random", seed=2).new_name == "e-random-2-40"
    run(place, name="mine")
    with pytest.raises(InputError, match='"mine" is already there'):
        run(place, name="mine")
    with pytest.raises(InputError, match="cannot be used"):
        run(place, name="../mine")


def test_too_narrow_and_nothing_is_left(place):
    with pytest.raises(InputError, match="has 3 features; expected at least 8"):
        run(place, reduction=0.9, name="narrow")
    assert not place.encoder("narrow").exists()


def test_an_encoder_that_gives_something_else_is_refused(place, monkeypatch):
    from sslviz.encoders import cut

    honest = cut.cut_encoder
    first = lambda spec, weights, kept, name: honest(spec, weights, np.arange(len(kept)), name)  # noqa: E731
    monkeypatch.setattr(cut, "cut_encoder", first)
    with pytest.raises(RunFailed, match="differs from tiny"):
        run(place, name="wrong")
    assert "wrong" not in place.encoders()


def test_arrays_have_no_weights_to_cut(place, tmp_path):
    from sslviz.jobs.import_arrays import ImportSettings, import_arrays

    np.save(tmp_path / "H.npy", np.random.default_rng(0).random((20, 16), np.float32))
    settings = ImportSettings(dataset="elsewhere", encoder="theirs", file=str(tmp_path / "H.npy"))
    import_arrays(settings, place, Progress())
    with pytest.raises(InputError, match="was imported as arrays"):
        export(ExportSettings(dataset="elsewhere", encoder="theirs"), place, Progress())


def test_the_command_says_what_is_gained_and_where_it_lies(place, capsys, monkeypatch):
    monkeypatch.setattr(results, "out", Console(width=300))
    result = run(place)
    results.print_result("export", result, place)
    said = " ".join(capsys.readouterr().out.split())
    assert f"encoder {result['encoder']}: {result['words']}" in said
    assert f"{place.encoder(result['encoder'])}: encoder.json, weights.safetensors, features.csv" in said
