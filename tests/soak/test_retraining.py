"""Too slow for every day: `make soak`."""

import random
import shlex

import numpy as np
import pandas as pd
import pytest

from sslviz.data.dataset import add_folder
from sslviz.data.demo import files
from sslviz.errors import Cancelled
from sslviz.jobs import parse
from sslviz.jobs.pretrain import PretrainSettings, pretrain
from sslviz.progress import Progress
from sslviz.store.files import read_json

pytestmark = pytest.mark.soak
EPOCHS, SEEDS = 2, 3


class Stops(Progress):
    """Cancels when so many steps of the training are done."""

    def __init__(self, folder):
        self.folder, self.training, self.done = folder, False, 0

    def stage(self, name, total=0):
        self.training = name == "training"

    def advance(self, done=1):
        self.done += done * self.training
        if self.done == EPOCHS * (4500 // 256):
            raise Cancelled("enough")


def test_a_demo_encoder_trained_again_follows_its_recorded_curve(workspace, tmp_path):
    """Noise is what other seeds make of it: of three, the recorded one's included, the largest difference."""
    cards = {path.parent.name: read_json(path) for path in (files.shipped() / "encoders").glob("*/card.json")}
    name = random.choice([name for name, card in cards.items() if "curve" in card])
    print("drawn:", name)
    words = shlex.split(cards[name]["command"])[2:]
    values = {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    add_folder(workspace, "demo", files.unpack(files.shipped(), workspace.dataset("demo"), Progress()))
    first, found = int(values.get("seed", 0)), []
    for seed in range(first, first + SEEDS):
        (tmp_path / str(seed)).mkdir()
        again = {**values, "name": f"again-{seed}", "seed": seed, "snapshot_every": 0, "precision": "auto"}
        with pytest.raises(Cancelled):
            pretrain(parse(PretrainSettings, again), workspace, Stops(tmp_path / str(seed)))
        found.append(pd.read_parquet(tmp_path / str(seed) / "metrics.parquet")[["loss", "spread", "rank"]])
    ours = found[0]
    assert len(ours) == EPOCHS
    recorded = pd.DataFrame({of: cards[name]["curve"][of][:EPOCHS] for of in ours})
    noise = np.ptp(np.stack(found), axis=0)
    for epoch, (mine, theirs, wide) in enumerate(zip(ours.to_numpy(), recorded.to_numpy(), noise, strict=True), start=1):
        for of, a, b, w in zip(ours, mine, theirs, wide, strict=True):
            print(f"epoch {epoch}, {of}: {a:.4g}, recorded {b:.4g}, seeds differ by {w:.2g}")
    assert ((ours - recorded).abs() < noise).all(axis=None)
