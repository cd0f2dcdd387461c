"""The damage check: measured again by hand on small pictures, and its words."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sslviz.data import dataset as datasets
from sslviz.data.damages import DAMAGES, damage
from sslviz.encoders.run import load_encoder
from sslviz.jobs.damage import verdict
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.score import ScoreSettings, score
from sslviz.progress import Progress
from sslviz.store.results import latest_result
from tests import reference
from tests.inputs import embedded_photos, pixels


@pytest.fixture
def photos(tmp_path, workspace):
    return embedded_photos(workspace, tmp_path / "photos", 9, 5)


def run(workspace, **options):
    return score(ScoreSettings(dataset="photos", encoder="tiny", **options), workspace, Progress())


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
        assert table.loc[(name, "norm"), "falls"] == pytest.approx((norms[1] < norms[0]).mean())


def test_unreadable_pictures_are_left_out_and_none_is_no_check(workspace, photos):
    (photos / "val/disc/000.png").write_bytes(b"")
    datasets.refresh(workspace, "photos")
    embed(EmbedSettings(dataset="photos", encoder="tiny"), workspace, Progress())
    assert {row["n"] for row in run(workspace)["damage"]} == {9}
    assert run(workspace, damage=4)["damage"][0]["n"] == 4
    nothing = run(workspace, damage=0)
    assert nothing["damage"] == []
    assert nothing["upside_down"] is None


def falls(**scores):
    """A damage table; scores by name: (covered, shrunk)."""
    rows = [
        (d, s, v, v - 0.05, v + 0.05, 300) for s, pair in scores.items() for d, v in zip(("covered", "shrunk"), pair, strict=True)
    ]
    rows += [("blurred", s, 0.0, 0.0, 0.1, 300) for s in scores]  # not among the telling ones
    return pd.DataFrame(rows, columns=["damage", "score", "falls", "low", "high", "n"])


def test_the_words_of_the_damage_check():
    assert verdict(falls(q=(0.5, 0.9), norm=(0.9, 0.9))) is None
    assert verdict(falls(q=(0.46, 0.9), norm=(0.9, 0.9))) is None  # 41 to 51: a coin's toss
    found = verdict(falls(q=(0.8, 0.42), norm=(0.6, 0.8), nn1=(0.95, 0.7), msp=(1.0, 1.0)))
    assert (found["damage"], found["better"]) == ("shrunk", "nn1")  # msp uses labels; the weaker of both counts
    assert found["words"] == (
        "When these images are shrunk, their Q rises more often than it falls: the ranking by Q may be upside down; "
        "compare it with similarity to the nearest train image. (shrunk: Q falls in 42 % of 300 images, 95 % 37 to 47.) "
        "A hypothesis of ours, which our own measurements do not bear out so far (docs/evidence.md in the source)."
    )
    none_better = verdict(falls(q=(0.3, 0.4), norm=(0.5, 0.9)))
    assert none_better["better"] is None
    assert "upside down. No other label-free score here does better. (covered: Q falls in 30 %" in none_better["words"]
    assert verdict(falls(q=(0.3, 0.4)).iloc[:0]) is None
