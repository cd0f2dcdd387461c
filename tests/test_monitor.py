"""The callback in a real Lightning training, beside the slow loops of the paper."""

import math
import runpy
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

import sslviz
from sslviz.errors import InputError
from tests import reference
from tests.inputs import folder

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Training(pl.LightningModule):
    """The least that trains: an encoder with BatchNorm, a part of it frozen in evaluation mode."""

    def __init__(self, pooled=True):
        super().__init__()
        torch.manual_seed(1)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), *([nn.AdaptiveAvgPool2d(1), nn.Flatten()] if pooled else [])
        )
        self.modes = []

    def on_train_batch_start(self, *_):
        self.backbone[1].eval()
        self.modes.append([part.training for part in self.modules()])

    def training_step(self, batch, _):
        return self.backbone(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, *callbacks, epochs=1):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **options)
    torch.manual_seed(2)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), batch_size=8, shuffle=True)
    trainer.fit(module, data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def by_loops(module, eps, lower=50, upper=95):
    with torch.no_grad():
        out = module.eval().backbone(IMAGES)
    H = (out.mean((2, 3)) if out.ndim == 4 else out).double().numpy()
    chosen = reference.discriminative(H, eps, lower, upper)
    fires = np.array(reference.firing(H, eps))
    singular = np.linalg.svd(H, compute_uv=False)
    p = singular / singular.sum()
    return {
        "q_score": np.mean(reference.q_score(H, chosen, eps)),
        "q_score_empty": np.mean(~fires[:, chosen].any(1)),
        "q_score_eps": eps,
        "rank_me": math.exp(-(p * np.log(p)).sum()),
    }


@pytest.mark.parametrize("pooled", [True, False])
def test_what_is_logged_is_the_papers(pooled):
    module = Training(pooled)
    loader = [IMAGES[:10], (IMAGES[10:], torch.zeros(14))]  # batches alone, or with labels, which are left alone
    found = fit(module, sslviz.QScoreMonitor(loader, eps=1.0))
    assert found == pytest.approx(by_loops(module, 1.0), rel=1e-4)
    options = {"eps": 1.0, "lower": 20, "upper": 70}
    by_function = fit(Training(pooled), sslviz.QScoreMonitor(loader, lambda m, images: m.backbone(images), **options))
    assert by_function == pytest.approx(by_loops(module, 1.0, 20, 70), rel=1e-4)
    assert by_function != pytest.approx(found)


def test_training_is_what_it_is_without_it():
    alone, watched = Training(), Training()
    fit(alone, epochs=3)
    fit(watched, sslviz.QScoreMonitor(torch.utils.data.DataLoader(IMAGES, 10)), epochs=3)
    assert watched.modes == alone.modes
    assert set(watched.modes[0]) == {True, False}
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name


def test_every_second_epoch():
    class Counted(sslviz.QScoreMonitor):
        seen = ()

        def _features(self, module):
            self.seen = (*self.seen, module.trainer.current_epoch)
            return super()._features(module)

    monitor = Counted([IMAGES], every=2)
    fit(Training(), monitor, epochs=5)
    assert monitor.seen == (1, 3)


def test_a_diverged_training_goes_on():
    module = Training()
    with torch.no_grad():
        module.backbone[0].weight[0] = math.nan
    with pytest.warns(UserWarning, match="NaN or infinity"):
        found = fit(module, sslviz.QScoreMonitor([IMAGES]))
    assert len(found) == 4
    assert all(math.isnan(value) for value in found.values())


def test_modes_come_back_after_an_error_and_other_precisions_are_met():
    module = Training().double().train()
    monitor = sslviz.QScoreMonitor([([IMAGES, IMAGES], 0)], eps=1.0)
    assert monitor._look(module) == pytest.approx(by_loops(Training(), 1.0), rel=1e-4)
    module.backbone[1].eval()
    with pytest.raises(ZeroDivisionError):
        sslviz.QScoreMonitor([IMAGES], lambda *_: 1 / 0)._look(module)
    assert [part.training for part in module.modules()].count(False) == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": iter([IMAGES])}, "images is used up by going through it once"),
        ({"images": [{"image": IMAGES}]}, "images gave a dict"),
        ({"encoder": "net"}, 'Training has no attribute "net"'),
        ({"images": []}, "images of QScoreMonitor is empty"),
        ({"encoder": lambda m, x: x.flatten()}, r"features of shape \(4608,\)"),
        ({"every": 0}, "every is 0"),
        ({"eps": -1.0}, "eps is -1"),
        ({"lower": 95, "upper": 50}, "out of order"),
    ],
)
def test_bad_input_is_one_clear_line(given, words):
    with pytest.raises(InputError, match=words):
        fit(Training(), sslviz.QScoreMonitor(**{"images": [IMAGES], **given}))


def test_the_example_trains_chooses_and_goes_on(tmp_path, monkeypatch, capsys):
    photos = folder(tmp_path / "photos", {"train/a": 12, "train/b": 12})
    monkeypatch.setattr(sys, "argv", ["own_training.py", str(photos), "--epochs", "2", "--batch-size", "8"])
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "own_training.py"), run_name="__main__")
    before, chosen, after = capsys.readouterr().out.strip().splitlines()
    assert chosen.endswith("of 512 features are discriminative")
    for line in (before, after):
        assert [word.split()[0] for word in line.removeprefix("epoch 1: ").split(", ")] == [
            "q_score",
            "q_score_empty",
            "q_score_eps",
            "rank_me",
        ]
        assert "nan" not in line


def test_making_one_draws_no_random_number():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    sslviz.QScoreMonitor(torch.utils.data.DataLoader(IMAGES, 10))
    assert torch.rand(1) == expected
