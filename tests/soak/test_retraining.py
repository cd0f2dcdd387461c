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
from sslviz.methods import METHODS
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
    """Within 1.5 times the range of three seeds, the recorded one's included; a run at a tenth of the rate does not."""
    cards = {path.parent.name: read_json(path) for path in (files.shipped() / "encoders").glob("*/card.json")}
    name = random.choice([name for name, card in cards.items() if "curve" in card])
    print("drawn:", name)
    words = shlex.split(cards[name]["command"])[2:]
    values = {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    add_folder(workspace, "demo", files.unpack(files.shipped(), workspace.dataset("demo"), Progress()))

    def trained(called, **changes):
        (tmp_path / called).mkdir()
        again = {**values, "name": called, "snapshot_every": 0, "precision": "auto", **changes}
        with pytest.raises(Cancelled):
            pretrain(parse(PretrainSettings, again), workspace, Stops(tmp_path / called))
        found = pd.read_parquet(tmp_path / called / "metrics.parquet")[["loss", "spread", "rank"]]
        assert len(found) == EPOCHS
        return found

    first, recipe = int(values.get("seed", 0)), METHODS[values.get("method", "simclr")].recipe
    seeds = [trained(f"seed-{seed}", seed=seed) for seed in range(first, first + SEEDS)]
    slow = trained("slow", lr=recipe.base_lr / 10)  # of 256 images a step, as the demo's encoders were trained
    recorded = pd.DataFrame({of: cards[name]["curve"][of][:EPOCHS] for of in slow})
    noise = 1.5 * np.ptp(np.stack(seeds), axis=0)
    for epoch in range(EPOCHS):
        for k, of in enumerate(recorded):
            mine, theirs, slowly = (table[of][epoch] for table in (seeds[0], recorded, slow))
            wide = noise[epoch, k]
            print(f"epoch {epoch + 1}, {of}: {mine:.4g}, recorded {theirs:.4g} (within {wide:.2g}); slow {slowly:.4g}")
    assert ((seeds[0] - recorded).abs() < noise).all(axis=None)
    assert ((slow - recorded).abs() > noise).any(axis=None)
