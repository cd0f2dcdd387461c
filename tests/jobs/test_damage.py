"""The damage check: measured again by hand on small pictures."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image

from sslviz.data import dataset as datasets
from sslviz.data.damages import DAMAGES, damage
from sslviz.encoders.run import load_encoder
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.results import latest_result
from tests import reference
from tests.inputs import embedded_photos, folder, pixels, small_encoder


@pytest.fixture
def photos(tmp_path, workspace):
    return embedded_photos(workspace, tmp_path / "photos", 9, 5)


def run(workspace, **options):
    return score(ScoreSettings(dataset="photos", encoder="tiny", **{"damage": 300, **options}), workspace, Progress())


def test_shares_that_fall_are_measured_again_by_hand(workspace, photos):
    result = run(workspace)
    table = pd.DataFrame(result["damage"]).set_index(["damage", "score"])
    assert set(table.index) == {(d, s) for d in DAMAGES for s in ("q", "norm", "std", "nn1", "nn10", "msp")}
    assert (table["n"] == 10).all()
    assert ((table["low"] <= table["falls"]) & (table["falls"] <= table["high"])).all()
    folder = latest_result(workspace.results("photos", "tiny", "score")).folder
    features = pd.read_parquet(folder / "features.parquet")
    chosen = features.loc[features["chosen"], "feature"].to_numpy()
    encoder = load_encoder(workspace, "tiny")
    intact = torch.stack([pixels(Image.open(p)) for p in sorted((photos / "val").rglob("*.png"))])
    for name in ("covered", "darkened"):  # noise draws by batch order
        before, after = (encoder.embed(x).numpy().astype(float) for x in (intact, damage(intact, name)))
        q0, q1 = (np.array(reference.q_score(H, chosen, result["eps"])) for H in (before, after))
        assert table.loc[(name, "q"), "falls"] == pytest.approx(((q1 < q0) + 0.5 * (q1 == q0)).mean())
        norms = [np.linalg.norm(H, axis=1) for H in (before, after)]
        falls = norms[1] < norms[0]
        found = table.loc[(name, "norm")]
        assert found["falls"] == pytest.approx(falls.mean())
        drawn = falls[np.random.default_rng(7).integers(0, 10, (4000, 10))].mean(1)
        assert_allclose([found["low"], found["high"]], np.percentile(drawn, [2.5, 97.5]), atol=0.11)  # steps of a tenth


def test_unreadable_pictures_are_left_out_and_none_is_no_check(workspace, photos):
    (photos / "val/disc/000.png").write_bytes(b"")
    datasets.refresh(workspace, "photos")
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert {row["n"] for row in run(workspace)["damage"]} == {9}
    assert run(workspace, damage=4)["damage"][0]["n"] == 4
    assert score(ScoreSettings(dataset="photos", encoder="tiny"), workspace, Progress())["damage"] == []


def test_no_picture_is_its_own_neighbour_where_train_is_judged(tmp_path, workspace):
    root = folder(tmp_path / "photos", {"train/disc": 8, "train/ring": 8})
    datasets.add_folder(workspace, "photos", root)
    small_encoder(workspace)
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    table = pd.DataFrame(run(workspace)["damage"]).set_index(["damage", "score"])
    intact = torch.stack([pixels(Image.open(p)) for p in sorted(root.rglob("*.png"))])
    encoder = load_encoder(workspace, "tiny")
    unit = {
        name: torch.nn.functional.normalize(encoder.embed(damage(intact, name))) for name in ("covered", "shrunk", "darkened")
    }
    before = torch.nn.functional.normalize(encoder.embed(intact))
    nearest = {n: (rows @ before.T).fill_diagonal_(-2).amax(1).numpy() for n, rows in {"": before, **unit}.items()}
    shares = {name: (nearest[name] < nearest[""]).mean() for name in unit}
    assert min(shares.values()) < 0.95  # beside itself, each picture's similarity would fall
    for name, share in shares.items():
        assert table.loc[(name, "nn1"), "falls"] == pytest.approx(share, abs=0.07)
