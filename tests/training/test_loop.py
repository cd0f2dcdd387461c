import itertools
import math
from pathlib import Path
from unittest.mock import patch

import lightning
import numpy as np
import pandas as pd
import pytest
import torch

from sslviz.encoders.backbones.small_resnet import SmallResNet
from sslviz.errors import Cancelled, InputError, RunFailed
from sslviz.jobs.training import fabric_for
from sslviz.methods import METHODS, Step, Views
from sslviz.progress import Progress
from sslviz.training import loop
from sslviz.training.loop import Schedule, batches_of, choose_precision, collapse, learning_rate, spread, train
from sslviz.training.regulariser import Regulariser, RegulariserWeights, Selection
from sslviz.training.sources import InMemory
from tests.inputs import picture, pixels
from tests.processes import in_two

IMAGES = torch.stack([pixels(picture(s, 16, 16, kind=s)) for s in range(40)])
NORMALISE = ((0.5,) * 3, (0.25,) * 3)
SCHEDULE = Schedule(epochs=4, batch_size=16, lr=0.05, warmup_epochs=1, seed=0)


def method(seed=0, name="simclr"):
    torch.manual_seed(seed)
    cls = METHODS[name]
    options = cls.options.changed(name, queue_size=64 if cls.options.queue_size else None)
    return cls(SmallResNet(width=8, blocks=1, feature_dim=16), 16, options, 2)


def fabric():
    return lightning.Fabric(accelerator="cpu", devices=1, precision="32-true")


def run(folder, progress=None, schedule=SCHEDULE, images=IMAGES, model=None, every_epoch=None):
    folder.mkdir(exist_ok=True)
    model, source = model or method(), InMemory(images)
    says = progress or Progress()
    metrics = train(model, type(model).views, source, 16, NORMALISE, schedule, folder, fabric(), says, every_epoch)
    return model, metrics


class Stops(Progress):
    def __init__(self, after):
        self.left = after

    def advance(self, done=1):
        self.left -= done
        if self.left < 0:
            raise Cancelled("stop")


def test_learning_rate_warms_up_then_falls_as_a_cosine():
    rates = [learning_rate(step, 10, Schedule(5, 2, 1.0, 1, 0)) for step in range(50)]
    assert rates[:10] == pytest.approx([0.1 * (k + 1) for k in range(10)])
    assert rates[10:] == pytest.approx([0.5 * (1 + math.cos(math.pi * k / 40)) for k in range(40)])


@pytest.mark.parametrize(("name", "stop"), [("simclr", 1), ("simclr", 3), ("moco", 4), *((name, 5) for name in METHODS)])
def test_a_stopped_run_goes_on_exactly(tmp_path, name, stop):
    """2 steps an epoch: stops inside and at the end of epochs; MoCo's queue of 64 also half full."""
    straight, whole = run(tmp_path / "a", model=method(name=name))
    with pytest.raises(Cancelled):
        run(tmp_path / "b", Stops(stop), model=method(name=name))
    resumed, metrics = run(tmp_path / "b", model=method(9, name))  # its own start does not matter
    assert metrics["epoch"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(metrics["loss"], whole["loss"], rtol=1e-5)
    np.testing.assert_allclose(metrics["lr"], whole["lr"])
    for name, weight in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name


@pytest.mark.parametrize("epoch", [2, SCHEDULE.epochs])
def test_a_run_stopped_while_it_measures_keeps_the_epoch(tmp_path, epoch):
    seen = []

    def measure(rows):
        seen.append(len(rows))
        if seen.count(epoch) == 1 and len(rows) == epoch:
            raise Cancelled("stop")
        return {"measured": 10.0 * len(rows)}

    straight, whole = run(tmp_path / "a")
    with pytest.raises(Cancelled):
        run(tmp_path / "b", every_epoch=measure)
    assert torch.load(tmp_path / "b" / "checkpoint.pt", weights_only=True)["step"] == 2 * epoch
    resumed, metrics = run(tmp_path / "b", every_epoch=measure)
    assert seen == sorted([1, 2, 3, 4, epoch])
    assert metrics["measured"].tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(metrics["loss"], whole["loss"], rtol=1e-5)
    for name, weight in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight), name


@pytest.mark.parametrize("stopped_choosing", [False, True])
def test_a_resumed_run_goes_on_with_the_features_and_eps_it_had(tmp_path, stopped_choosing):
    left = [Cancelled("stop")] * stopped_choosing

    def go(progress, first):
        own = Regulariser(first, RegulariserWeights())

        def chosen_anew(rows):
            if len(rows) == 2 and left:
                raise left.pop()
            own.selection = Selection(np.array([len(rows), 7]), 0.1 * len(rows)) if len(rows) < 3 else own.selection
            return {}

        place = METHODS["simclr"].views, InMemory(IMAGES), 16, NORMALISE, SCHEDULE, tmp_path, fabric(), progress
        train(method(), *place, chosen_anew, own)
        return own.selection

    with pytest.raises(Cancelled):
        go(Stops(5), Selection(np.arange(4), 0.5))  # 2 steps an epoch: chosen anew twice
    features, eps = go(Progress(), Selection(np.arange(9), 0.9))
    assert (features.tolist(), eps) == ([2, 7], 0.2)


def test_training_lowers_the_loss_and_reaches_every_weight(tmp_path):
    model = method()
    before = {k: v.clone() for k, v in model.named_parameters()}
    _, metrics = run(tmp_path, schedule=Schedule(12, 20, 0.1, 1, 0), model=model)
    assert metrics["loss"].iloc[-1] < metrics["loss"].iloc[0] - 0.05
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize("name", list(METHODS))
def test_the_same_seed_gives_the_same_bits(tmp_path, name):
    (first, a), (second, b) = (run(tmp_path / place, model=method(name=name)) for place in "ab")
    assert a["loss"].tolist() == b["loss"].tolist()
    for key, weight in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], weight), key


def test_heads_alone_leave_the_backbone_bit_by_bit(tmp_path):
    model = method()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run(tmp_path, schedule=Schedule(2, 16, 0.1, 0, 0, heads_only=True), model=model)
    after = model.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before if k.startswith("backbone."))
    assert any(not torch.equal(after[k], before[k]) for k in before if not k.startswith("backbone."))
    assert all(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize("name", ["simclr", "barlow_twins"])
def test_lars_steps_in_proportion_to_the_weight(tmp_path, name):
    """The first step of each matrix, from a start without momentum: lr · 0.001 · |w| long (weight decay turns it, no more)."""
    model = method(name=name)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    run(tmp_path, schedule=Schedule(1, 40, 0.5, 0, 0, optimizer="lars"), model=model)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            step = (weight.detach() - before[name]).norm()
            assert float(step / before[name].norm()) == pytest.approx(0.5 * 0.001, rel=0.1), name


@pytest.mark.parametrize(
    ("name", "optimizer", "share"), [("barlow_twins", "lars", 0.024), ("barlow_twins", "sgd", 1), ("vicreg", "lars", 1)]
)
def test_biases_under_lars_move_at_the_methods_own_share_of_the_rate(tmp_path, name, optimizer, share):
    """One step from the same start at two rates of SGD's kind: lr · share · gradient, so both are known from one another."""
    model = method(name=name)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    run(tmp_path / "one", schedule=Schedule(1, 40, 0.5, 0, 0, optimizer=optimizer), model=model)
    plain = method(name=name)
    run(tmp_path / "other", schedule=Schedule(1, 40, 0.5, 0, 0, optimizer="sgd"), model=plain)
    moved = False
    for (key, weight), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        if weight.ndim == 1:
            full = other.detach() - before[key]
            torch.testing.assert_close(weight.detach() - before[key], share * full, rtol=1e-3, atol=1e-6)
            moved |= bool(full.norm() > 1e-3)
    assert moved


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="data set smaller than one batch: 40 images, batch size 64"):
        run(tmp_path, schedule=Schedule(1, 64, 0.1, 0, 0))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_each_epoch_takes_every_image_once_in_an_order_of_its_own():
    class Told:
        def __init__(self):
            self.rows = []

        def __len__(self):
            return 40

        def batches(self, plan, device):
            for planned in plan:
                self.rows.append(planned.rows)
                yield [torch.zeros(10, 3, 16, 16)]

    told = Told()
    schedule = Schedule(2, 10, 0.1, 0, 0)
    list(batches_of(Views(n_views=1), told, 16, NORMALISE, schedule, fabric(), range(8)))
    first, second = ([row for rows in part for row in rows] for part in (told.rows[:4], told.rows[4:]))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second
    assert first != list(range(40))


def test_every_step_and_seed_cuts_and_colours_anew():
    same = InMemory(IMAGES[:1].repeat(16, 1, 1, 1))

    def views(seed, steps):
        return [
            cut for (cut,) in batches_of(Views(n_views=1), same, 16, NORMALISE, Schedule(2, 8, 0.1, 0, seed), fabric(), steps)
        ]

    shown = [*views(0, range(4)), *views(1, range(4))]  # 2 steps an epoch
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(shown, 2))
    assert all(torch.equal(a, b) for a, b in zip(views(0, range(2, 4)), shown[2:4], strict=True))


def test_networks_see_normalised_pixels():
    class Grey:
        def __len__(self):
            return 4

        def batches(self, plan, device):
            for _ in plan:
                yield [torch.full((4, 3, 16, 16), 0.5)]

    plain = Views(n_views=1, jitter_share=0, grey_share=0)
    normalise = ((0.5, 0.25, 0.0), (0.25, 0.25, 0.5))
    ((view,),) = batches_of(plain, Grey(), 16, normalise, Schedule(1, 4, 0.1, 0, 0), fabric(), range(1))
    assert [float(view[:, k].mean()) for k in range(3)] == pytest.approx([0, 1, 1])


def test_a_last_batch_that_is_not_full_is_left_out_of_the_epoch(tmp_path):
    _, metrics = run(tmp_path, schedule=Schedule(1, 13, 0.01, 0, 0))  # 40 = 3 x 13 + 1
    assert metrics["step"].tolist() == [3]


def spoiled(spoil, when):
    """A method whose steps go through `spoil` where `when` holds for their number, from 1."""
    model = method()
    forward, numbers = model.forward, itertools.count(1)
    model.forward = lambda views, clock: spoil(forward(views, clock)) if when(next(numbers)) else forward(views, clock)
    return model


@pytest.mark.parametrize("given", [None, 0.0, 0.05])
def test_weight_decay_is_for_matrices_and_kernels(tmp_path, given):
    """Biases and BatchNorm's parameters are not decayed (docs/encoders.md)."""
    model = spoiled(lambda step: step._replace(loss=step.loss * 0), lambda number: True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    run(tmp_path, model=model, schedule=Schedule(1, 40, 0.1, 0, 0, weight_decay=given))
    decay = 5e-4 if given is None else given
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * decay if p.ndim > 1 else 1), rtol=1e-6, atol=0)


def test_measuring_the_precision_leaves_the_method_as_it_was():
    model = method(name="moco")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose_precision(model, type(model).views, 16, 16, "cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("bf16", "chosen"), [(1.0, "bf16-mixed"), (1.8, "32-true"), (3.0, "32-true")])
def test_bf16_is_taken_where_it_is_a_fifth_faster(monkeypatch, bf16, chosen):
    times = [t for seconds in (2.0, bf16) for _ in range(3) for t in (0.0, seconds)]
    monkeypatch.setattr(loop.time, "perf_counter", iter(times).__next__)
    model = method()
    assert choose_precision(model, type(model).views, 16, 16, "cpu") == chosen


def is_whole_after(folder, step):
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert state["step"] == step
    assert all(torch.isfinite(v).all() for v in state["method"].values() if v.is_floating_point())


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path):
    model = spoiled(lambda step: step._replace(loss=step.loss * float("nan")), lambda number: number > 5)
    with pytest.raises(RunFailed, match=r"loss is nan at step 5 \(epoch 3\)"):
        run(tmp_path, model=model)
    is_whole_after(tmp_path, 4)


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    """A finite loss whose gradient is not: the last checkpoint stays, and no encoder comes of it."""

    def gradient_of_nan(step):
        step.features.register_hook(lambda gradient: gradient * float("nan"))
        return step

    model = spoiled(gradient_of_nan, lambda number: number == 4)  # the last step of the second epoch
    with pytest.raises(RunFailed, match=r"a weight is NaN or infinite after step 4 \(epoch 2\); the last checkpoint is kept"):
        run(tmp_path, model=model)
    is_whole_after(tmp_path, 2)


def test_a_loss_that_is_not_finite_at_once_promises_no_checkpoint(tmp_path):
    model = method()
    model.forward = lambda views, clock: Step(torch.tensor(float("inf"), requires_grad=True), torch.ones(2, 4), torch.ones(2, 4))
    with pytest.raises(RunFailed, match=r"loss is inf at step 0 \(epoch 1\); no epoch was finished, nothing is kept"):
        run(tmp_path, model=model)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_outputs_on_a_line_have_collapsed_too():
    def said(spread, rank, *losses, idle=None):
        return collapse([{"spread": spread, "rank": rank, "loss": loss} for loss in losses or (3.0,)], idle)

    assert "to one point" in said(0.01, 1.0)
    assert "to a line" in said(0.5, 1.2)
    assert said(0.5, 12) == ""
    even = math.log(128)
    assert "to one answer: the loss rests at 4.852" in said(0.4, 6, 5.1, 4.8527, 4.8524, 4.8523, idle=even)  # as SwAV did here
    assert said(0.4, 6, 4.8527, 4.8524, idle=even) == ""  # it may be on its way
    assert said(0.4, 6, 4.8523, 4.8523, 4.8437, idle=even) == ""  # it went on
    assert said(0.4, 6, 4.8523, 4.8523, 4.8523) == ""  # a method that has no such place
    rows = [{"spread": 0.4, "rank": 6, "loss": 9.0, "ssl_loss": 4.8523}] * 3  # fine-tuning: its own loss counts
    assert "to one answer" in collapse(rows, even)


@pytest.mark.parametrize(("name", "width"), [("swav", 128), ("dino", 512), ("simclr", None), ("vicreg", None)])
def test_the_same_answer_for_every_image_has_the_idle_loss(name, width):
    """By the method's own loss on equal outputs: every image like every prototype, every image the same."""
    model = method(name=name)
    if width is None:
        assert model.idle_loss is None
        return
    equal = [torch.zeros(8, width) for _ in range(2)]
    loss = model.criterion(equal, []).item() if name == "swav" else model.criterion(equal, equal, teacher_temp=0.04).item()
    assert model.idle_loss == pytest.approx(loss, rel=1e-5)


def test_spread_is_one_for_even_directions_and_zero_when_collapsed():
    assert float(spread(torch.randn(4000, 32))) == pytest.approx(1, abs=0.02)
    assert float(spread(torch.ones(10, 32))) == pytest.approx(0, abs=1e-6)


def test_collapse_is_said(tmp_path):
    said = []

    class Hears(Progress):
        def warn(self, sentence):
            said.append(sentence)

    grey = torch.full((32, 3, 16, 16), 128, dtype=torch.uint8)
    model = method()
    for parameter in model.projector.parameters():
        torch.nn.init.zeros_(parameter)
    model.projector.layers[-1].bias = torch.nn.Parameter(torch.ones(128))
    train(model, type(model).views, InMemory(grey), 16, NORMALISE, Schedule(1, 16, 1e-9, 0, 0), tmp_path, fabric(), Hears())
    assert any("collapsed" in line for line in said)


def two_epochs(folder):
    """Steps whose views and statistics do not depend on how many processes share a batch."""
    folder.mkdir(exist_ok=True)
    shared, model = fabric_for("cpu", "32-true"), method()
    for module in model.modules():  # statistics of a part of the batch differ: compare what the loop itself does
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module
    terms = Regulariser(Selection(np.arange(3), 0.5), RegulariserWeights(1.0, 0.01))

    def choose(rows):
        terms.selection = Selection(np.arange(len(rows), 5), 1.5)
        return {}

    whole, schedule = Views(scale=(2.0, 2.0), flip_share=0), Schedule(2, 16, 0.05, 0, 0)
    with patch.object(loop, "recolour", lambda shown, views, generator: [shown[0], shown[1].flip(3)]):
        train(model, whole, InMemory(IMAGES), 16, NORMALISE, schedule, folder, shared, Progress(), choose, terms)
    (folder / f"D{shared.global_rank}").write_text(str((terms.selection.features.tolist(), terms.selection.eps)))


@pytest.mark.parametrize("views", [Views(jitter_share=0, grey_share=0), Views(scale=(2.0, 2.0), flip_share=0)])
def test_processes_draw_views_of_their_own(views):
    """Of equal pictures: crops differ where colours are left, colours where pictures are left whole."""
    from types import SimpleNamespace

    same = InMemory(IMAGES[:1].expand(16, -1, -1, -1).clone())
    shown = []
    for rank in (0, 1):
        process = SimpleNamespace(global_rank=rank, world_size=2, device=torch.device("cpu"))
        (batch,) = batches_of(views, same, 16, NORMALISE, Schedule(1, 16, 0.1, 0, 0), process, range(1))
        assert len(batch[0]) == 8
        shown.append(batch[0])
    assert not torch.allclose(*shown)


def test_two_processes_take_the_steps_of_one(tmp_path):
    two_epochs(tmp_path / "1")
    in_two(two_epochs, tmp_path / "2")
    weights, curves = {}, {}
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        weights[devices] = torch.load(folder / "checkpoint.pt", weights_only=True)["method"]
        curves[devices] = pd.read_parquet(folder / "metrics.parquet")[["loss", "ssl_loss", "mean_q", "q_term", "l1_term"]]
        assert len(curves[devices]) == 2
        for rank in range(devices):  # what the first one chose after an epoch is everybody's
            assert (folder / f"D{rank}").read_text() == "([2, 3, 4], 1.5)"
    np.testing.assert_allclose(curves[2], curves[1], rtol=1e-4)  # of the whole batch, not of the first process's share
    for name, weight in weights[1].items():
        torch.testing.assert_close(weights[2][name], weight, rtol=1e-4, atol=1e-5)


def test_the_second_network_follows_the_first_after_each_step(tmp_path):
    model = method(name="byol")
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run(tmp_path, model=model, schedule=Schedule(1, 40, 0.05, 0, 0))  # one step
    moved = dict(model.named_parameters())
    followed = [name for name in moved if name.startswith("target_")]
    assert followed
    for name in followed:
        online = moved[name.removeprefix("target_")]
        expected = 0.99 * start[name] + 0.01 * online  # momentum begins at .99
        torch.testing.assert_close(moved[name], expected, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(moved[name], start[name]) for name in followed)


def test_what_the_first_epoch_holds_still_stays_still_in_training(tmp_path):
    for epochs, moves in ((1, False), (2, True)):
        model = method(name="swav")
        start = {n: p.detach().clone() for n, p in model.named_parameters() if "prototypes" in n}
        run(tmp_path / str(epochs), model=model, schedule=Schedule(epochs, 20, 0.1, 0, 0))
        for name, parameter in model.named_parameters():
            if name in start:
                unit = torch.nn.functional.normalize(start[name], dim=1)
                assert torch.allclose(parameter, unit, atol=1e-5) is not moves


def test_steps_are_taken_at_the_rate_that_is_logged_with_the_methods_momentum(tmp_path):
    model, metrics = run(tmp_path)
    (group, *_) = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(metrics["lr"].iloc[-1])
    assert group["lr"] != SCHEDULE.lr
    assert group["momentum"] == type(model).recipe.momentum


def test_a_save_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    save, saved = torch.save, []

    def full(content, path):
        saved.append(path)
        if len(saved) == 2:
            Path(path).write_bytes(b"half a file")
            raise OSError(28, "No space left on device")
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] > 0
