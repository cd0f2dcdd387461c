"""The pretrain job from end to end on small pictures: what it leaves in the workspace."""

import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sslviz.data import dataset as datasets
from sslviz.data.loading import load_pixels, read_picture
from sslviz.encoders.add import add_encoder
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, read_card
from sslviz.errors import Cancelled, InputError
from sslviz.jobs import parse, training
from sslviz.jobs.pretrain import PretrainSettings, made_with, pretrain
from sslviz.progress import Progress
from sslviz.store.workspace import Workspace
from sslviz.training import loop
from sslviz.training.loop import Schedule, collapse, learning_rate
from tests.inputs import folder, picture, pixels, small_encoder

SETTINGS = {"dataset": "pets", "method": "byol", "epochs": 3, "batch_size": 8, "size": 16, "width": 8, "feature_dim": 16}
SETTINGS |= {"hidden_dim": 16, "output_dim": 8, "snapshot_every": 2, "precision": "32-true", "crop_min": 0.5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrain")
    workspace, progress = Workspace(root / "w").create(), Progress()
    datasets.add_folder(workspace, "pets", folder(root / "pets", {"train/cat": 9, "train/dog": 9, "test/cat": 4}))
    progress.folder = root / "run"
    progress.folder.mkdir()
    result = pretrain(PretrainSettings(**SETTINGS), workspace, progress)
    return workspace, progress.folder, result


def test_the_encoder_and_a_snapshot_are_stored_and_embed(trained):
    workspace, _, result = trained
    assert workspace.encoders() == ["byol-pets", "byol-pets-e002"]
    assert result["encoder"] == "byol-pets"
    spec = load_spec(workspace, "byol-pets")
    assert (spec.method, spec.feature_dim, spec.input.size) == ("byol", 16, 16)
    assert "18 images" in spec.source  # the train images only
    encoder = load_encoder(workspace, "byol-pets")
    out = encoder.embed(pixels(picture(1, 16, 16))[None])
    assert out.shape == (1, 16)
    assert torch.isfinite(out).all()
    earlier = load_weights(workspace, load_spec(workspace, "byol-pets-e002"))
    later = load_weights(workspace, spec)
    assert any(not torch.equal(earlier[k], later[k]) for k in later)


def test_its_input_is_the_train_pixels_mean_and_deviation(trained):
    workspace, _, _ = trained
    root = datasets.load(workspace, "pets").root
    shades = np.stack([np.asarray(picture_16(path)) for path in sorted(root.glob("train/*/*.png"))]) / 255
    spec = load_spec(workspace, "byol-pets").input
    np.testing.assert_allclose(spec.mean, shades.mean((0, 1, 2)), atol=0.003)
    np.testing.assert_allclose(spec.std, shades.std((0, 1, 2)), atol=0.02)


@pytest.mark.parametrize("method", ["byol", "simsiam"])
def test_a_collapse_is_part_of_the_result(tmp_path, method):
    """All pictures are one grey: there is one answer to give."""
    from PIL import Image

    workspace, progress = Workspace(tmp_path / "w").create(), Progress()
    place = folder(tmp_path / "same", {"train/a": 12, "train/b": 12})
    for path in place.rglob("*.png"):
        Image.new("RGB", (32, 32), (128, 128, 128)).save(path)
    datasets.add_folder(workspace, "same", place)
    progress.folder = tmp_path / "run"
    progress.folder.mkdir()
    said = []
    progress.warn = said.append
    settings = {**SETTINGS, "dataset": "same", "method": method, "jitter": 0.0, "snapshot_every": 0}
    result = pretrain(PretrainSettings(**settings), workspace, progress)
    assert result["collapse"].startswith("outputs have collapsed")
    assert said[0].startswith("all 24 train images are the same picture")  # colour jitter makes views that differ
    rows = pd.read_parquet(progress.folder / "metrics.parquet").to_dict("records")
    assert collapse([{**row, "feature_spread": 0.4, "spread": 0.9, "rank": 9.0} for row in rows], None) == ""


def picture_16(path):
    from PIL import Image

    return Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR)


def test_the_card_holds_the_command_and_the_curve(trained):
    workspace, run, _ = trained
    card = read_card(workspace, "byol-pets")
    words = shlex.split(card.command)
    assert words[:2] == ["sslviz", "pretrain"]
    given = {flag[2:].replace("-", "_"): value for flag, value in zip(words[2::2], words[3::2], strict=True)}
    assert parse(PretrainSettings, given) == PretrainSettings(**SETTINGS)
    metrics = pd.read_parquet(run / "metrics.parquet")
    assert card.loss == pytest.approx(metrics["loss"].tolist(), rel=1e-4)
    assert len(card.loss) == 3
    assert len(read_card(workspace, "byol-pets-e002").loss) == 2


def test_head_and_card_go_along_into_another_workspace(trained, tmp_path):
    workspace, _, _ = trained
    there = Workspace(tmp_path / "w").create()
    own = workspace.encoder("byol-pets")
    add_encoder(there, str(own / "weights.safetensors"), "copy")
    ours, theirs = (load_file(w.encoder(n) / "head.safetensors") for w, n in ((workspace, "byol-pets"), (there, "copy")))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert read_card(there, "copy") == read_card(workspace, "byol-pets")


@pytest.mark.parametrize("content", ["no json", "[]", '{"command": "x"}', '{"command": "x", "curve": {"loss": ["y"]}}'])
def test_a_card_that_cannot_be_read_is_no_card(trained, tmp_path, content):
    workspace, _, _ = trained
    there = Workspace(tmp_path / "w").create()
    beside = tmp_path / "files"
    beside.mkdir()
    (beside / "weights.safetensors").write_bytes((workspace.encoder("byol-pets") / "weights.safetensors").read_bytes())
    (beside / "card.json").write_text(content)
    add_encoder(there, str(beside / "weights.safetensors"), "copy")
    assert read_card(there, "copy") is None
    assert load_encoder(there, "copy").spec.feature_dim == 16


@pytest.mark.parametrize("source", ["memory", "files"])
def test_every_file_left_out_is_named(tmp_path, monkeypatch, source):
    monkeypatch.setattr(training, "_SAMPLE", 4)
    workspace, progress = Workspace(tmp_path / "w").create(), Progress()
    root = folder(tmp_path / "pets", {"train/cat": 9, "train/dog": 9})
    datasets.add_folder(workspace, "pets", root)
    bad = sorted(root.glob("train/*/*"))[::4]
    for path in bad:
        path.write_bytes(b"<html>")
    progress.folder = tmp_path
    result = pretrain(PretrainSettings(**{**SETTINGS, "input": source, "workers": 1}), workspace, progress)
    assert [line.split(":")[0] for line in result["left_out"]] == [str(path.relative_to(root)) for path in bad]


def test_a_resumed_run_has_the_very_pictures_it_began_with(tmp_path):
    """In memory one more, or one less, would shift the order of all that follow."""
    workspace = Workspace(tmp_path / "w").create()
    root = folder(tmp_path / "pets", {"train/cat": 6})
    datasets.add_folder(workspace, "pets", root)
    dataset, _ = datasets.refresh(workspace, "pets")
    names = training.train_ids(dataset)
    content = {name: (root / name).read_bytes() for name in names}

    def pixels(*unreadable):
        for name in names:
            (root / name).write_bytes(b"<html>" if name in unreadable else content[name])
        return training.train_images(dataset, names, 16, False, 1, tmp_path, Progress()).pixels

    assert len(pixels(names[1], names[2])) == 4
    first = pixels(names[1])  # nothing is trained yet: what came back is taken
    assert len(first) == 5
    (tmp_path / "checkpoint.pt").touch()
    assert torch.equal(pixels(), first)  # the other one is back: still left out
    with pytest.raises(InputError, match=f"{names[3]} could be read when this run began"):
        pixels(names[1], names[3])
    with pytest.raises(InputError, match=f"{names[3]} could be read when this run began"):
        pixels(names[3])  # as many as before, but others
    assert torch.equal(pixels(names[1]), first)


def test_a_name_that_is_taken_is_refused_before_the_work(trained, tmp_path):
    workspace, _, _ = trained
    progress = Progress()
    progress.folder = tmp_path
    with pytest.raises(InputError, match='encoder "byol-pets" is already there'):
        pretrain(PretrainSettings(**SETTINGS), workspace, progress)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "other", "snapshot_every": 1}, 'encoder "other-e001" is already there'),
        ({"name": "n" * 78, "snapshot_every": 1}, "n-e001"),
        ({"name": "new", "warmup_epochs": 3}, r"warmup-epochs: expected fewer than the 3 epochs \(got 3\)"),
        ({"name": "new", "local_views": 2}, "byol compares whole views; leave --local-views out"),
    ],
)
def test_what_cannot_be_is_said_before_the_work(trained, tmp_path, changes, words):
    workspace, _, _ = trained
    if changes["name"] == "other":
        add_encoder(workspace, str(workspace.encoder("byol-pets") / "weights.safetensors"), "other-e001")
    progress = Progress()
    progress.folder = tmp_path
    with pytest.raises(InputError, match=words):
        pretrain(PretrainSettings(**{**SETTINGS, **changes}), workspace, progress)
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_without_train_images_is_said(workspace, tmp_path):
    progress = Progress()
    progress.folder = tmp_path
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"test/a": 20}))
    with pytest.raises(InputError, match="has 0 train images; expected at least one batch"):
        pretrain(PretrainSettings(**SETTINGS), workspace, progress)


def test_what_the_flags_make_of_the_views():
    own = made_with(PretrainSettings(dataset="d", method="dino", size=96)).views
    assert (own.scale, own.local_scale, own.n_local) == ((0.14, 1.0), (0.05, 0.14), 2)
    assert (own.jitter, own.blur, own.solarise) == ((0.4, 0.4, 0.2, 0.1), (1.0, 0.1, 0.5), (0.0, 0.2, 0.0))
    flags = {"crop_min": 0.28, "jitter": 2.0, "local_views": 4, "size": 32}
    views = made_with(PretrainSettings(dataset="d", method="dino", **flags)).views
    assert views.scale == (0.28, 1.0)
    assert views.local_scale == pytest.approx((0.1, 0.28))  # they go on from where the whole views end
    assert views.jitter == (0.8, 0.8, 0.4, 0.2)
    assert views.n_local == 4
    assert not any(views.blur + views.solarise)  # small pictures are not blurred
    assert made_with(PretrainSettings(dataset="d", method="dino", size=32, blur=True)).views.blur == (1.0, 0.1, 0.5)


@pytest.mark.parametrize(
    ("flags", "peak", "warmup", "decay"),
    [({}, 0.12 * 8 / 256, 0, 5e-4), ({"lr": 0.5, "warmup_epochs": 1, "weight_decay": 0.01}, 0.5, 1, 0.01)],
)
def test_the_pace_is_the_recipes_or_the_flags_and_dinos_teacher_is_kept(tmp_path, flags, peak, warmup, decay):
    """Two steps an epoch, two epochs; the recipe's five epochs of warm-up do not fit."""
    workspace, progress = Workspace(tmp_path / "w").create(), Progress()
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"train/cat": 8, "train/dog": 8}))
    progress.folder = tmp_path / "run"
    progress.folder.mkdir()
    settings = {**SETTINGS, "method": "dino", "epochs": 2, "snapshot_every": 0, **flags}
    pretrain(PretrainSettings(**settings), workspace, progress)
    schedule = Schedule(2, 8, peak, warmup, 0)
    expected = [learning_rate(step, 2, schedule) for step in (1, 3)]
    assert pd.read_parquet(progress.folder / "metrics.parquet")["lr"].tolist() == pytest.approx(expected)
    stored = load_weights(workspace, load_spec(workspace, "dino-pets"))
    checkpoint = torch.load(progress.folder / "checkpoint.pt", weights_only=True)
    assert [group["weight_decay"] for group in checkpoint["optimizer"]["param_groups"]] == [decay, 0.0]
    state = checkpoint["method"]
    assert all(torch.equal(state[f"teacher_backbone.{name}"], weight) for name, weight in stored.items())
    assert any(not torch.equal(state[f"backbone.{name}"], weight) for name, weight in stored.items())


class Stops(Progress):
    def __init__(self, folder, after):
        folder.mkdir(exist_ok=True)
        self.folder, self.left, self.training = folder, after, False

    def stage(self, name, total=0):
        self.training = name == "training"

    def advance(self, done=1):
        self.left -= done * self.training
        if self.training and self.left < 0:
            raise Cancelled("stop")


@pytest.fixture
def stopped(workspace, tmp_path):
    """A run that was cancelled in its second epoch of three, after its first snapshot."""
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"train/cat": 9, "train/dog": 9}))
    settings = PretrainSettings(**{**SETTINGS, "snapshot_every": 1})
    with pytest.raises(Cancelled):
        pretrain(settings, workspace, Stops(tmp_path / "run", 2))
    return settings, Stops(tmp_path / "run", 1000)


def test_a_run_with_snapshots_goes_on(workspace, stopped):
    settings, goes_on = stopped
    assert workspace.encoders() == ["byol-pets-e001"]
    assert pretrain(settings, workspace, goes_on)["encoder"] == "byol-pets"
    assert workspace.encoders() == ["byol-pets", "byol-pets-e001", "byol-pets-e002"]


def test_other_images_than_a_run_began_with_are_refused(workspace, stopped, tmp_path):
    settings, goes_on = stopped
    for k in range(8):
        picture(k, 16, 16).save(tmp_path / f"pets/train/cat/more-{k}.png")
    with pytest.raises(InputError, match='the train images of data set "pets" changed since this run began'):
        pretrain(settings, workspace, goes_on)


def test_an_encoder_that_took_the_name_meanwhile_is_not_overwritten(workspace, stopped, monkeypatch):
    settings, goes_on = stopped
    theirs = small_encoder(workspace, "byol-pets")
    with pytest.raises(InputError, match='"byol-pets" is already there'):
        pretrain(settings, workspace, goes_on)
    shutil.rmtree(workspace.encoder("byol-pets"))
    train = loop.train

    def meanwhile(*given):
        found = train(*given)
        small_encoder(workspace, "byol-pets")
        return found

    monkeypatch.setattr(loop, "train", meanwhile)
    with pytest.raises(InputError, match='"byol-pets" is already there'):
        pretrain(settings, workspace, goes_on)
    assert load_spec(workspace, "byol-pets") == theirs


def test_a_run_keeps_the_precision_it_began_with(workspace, tmp_path, monkeypatch):
    answers = iter(["32-true", "bf16-mixed"])
    monkeypatch.setattr(loop, "choose_precision", lambda *_: next(answers))
    made = made_with(PretrainSettings(**SETTINGS))
    first, second = (training.measured_precision(None, made.views, 16, 8, "cpu", tmp_path) for _ in range(2))
    assert first == second == "32-true"


def test_pictures_that_are_none_leave_no_hole(tmp_path):
    root = folder(tmp_path / "pets", {"a": 4})
    (root / "a" / "001.png").write_text("no picture")
    names = [f"a/00{k}.png" for k in range(4)]
    found, bad = load_pixels(root, names, 16, 2, Progress())
    expected = [read_picture(root / name, 16, 16).pixels for name in names if name != "a/001.png"]
    assert torch.equal(found, torch.stack(expected))
    assert list(bad) == ["a/001.png"]
