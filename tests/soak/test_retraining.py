"""Too slow for every day: `make soak`."""

import random
import shlex

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
EPOCHS = 2


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
    cards = {path.parent.name: read_json(path) for path in (files.shipped() / "encoders").glob("*/card.json")}
    name = random.choice([name for name, card in cards.items() if "curve" in card])
    print("drawn:", name)
    words = shlex.split(cards[name]["command"])[2:]
    values = {flag[2:].replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)}
    settings = parse(PretrainSettings, {**values, "name": "again", "snapshot_every": 0, "precision": "auto"})
    add_folder(workspace, "demo", files.unpack(files.shipped(), workspace.dataset("demo"), Progress()))
    with pytest.raises(Cancelled):
        pretrain(settings, workspace, Stops(tmp_path))
    recorded = cards[name]["curve"]["loss"]
    found = pd.read_parquet(tmp_path / "metrics.parquet")["loss"].tolist()
    assert len(found) == EPOCHS
    fall = max(recorded) - min(recorded)
    for epoch, (ours, theirs) in enumerate(zip(found, recorded, strict=False), start=1):
        assert abs(ours - theirs) < 0.05 * fall, f"{name}, epoch {epoch}: loss {ours:.4g}, recorded {theirs:.4g}"
