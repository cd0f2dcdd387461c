"""The finetune job from end to end on small pictures: arms, resume, what it leaves in the workspace and what it says."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from sslviz.data import dataset as datasets
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, read_head, save_encoder, save_weights
from sslviz.errors import Cancelled, InputError
from sslviz.jobs import arms, command_of, parse
from sslviz.jobs.embed import EmbedSettings, embed
from sslviz.jobs.finetune import FinetuneSettings, finetune
from sslviz.jobs.inputs import open_embedded, result_state
from sslviz.jobs.mended import judge
from sslviz.jobs.origin import Origin
from sslviz.jobs.pretrain import PretrainSettings, pretrain
from sslviz.jobs.training import train_ids
from sslviz.progress import Progress
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace
from tests.inputs import folder, picture

PRETRAINED = {"dataset": "pets", "method": "byol", "name": "small", "epochs": 1, "batch_size": 8, "size": 16, "width": 8}
PRETRAINED |= {"feature_dim": 16, "hidden_dim": 16, "output_dim": 8, "precision": "32-true", "crop_min": 0.5}
SETTINGS = {"dataset": "pets", "encoder": "small", "epochs": 2, "lr": 0.1, "optimizer": "sgd", "batch_size": 8, "eps": 0.5}
SETTINGS |= {"precision": "32-true", "lambda1": 1.0, "lambda2": 0.01, "judge_every": 1}


class InFolder(Progress):
    def __init__(self, place, steps=None):
        place.mkdir(parents=True, exist_ok=True)
        self.folder, self.left, self.said, self.stages = place, steps, [], []

    def stage(self, name, total=0):
        self.stages.append(name)

    def warn(self, sentence):
        self.said.append(sentence)

    def advance(self, done=1):
        if self.left is not None and self.stages[-1].endswith("training"):
            self.left -= done
            if self.left < 0:
                raise Cancelled("stop")


def prepared(root, **changes):
    workspace = Workspace(root / "w").create()
    classes = {"train/cat": 12, "train/dog": 12, "test/cat": 6, "test/dog": 6}
    datasets.add_folder(workspace, "pets", folder(root / "pets", classes))
    pretrain(PretrainSettings(**{**PRETRAINED, **changes}), workspace, InFolder(root / "pretrained"))
    return workspace


def run(workspace, place, steps=None, **changes):
    progress = InFolder(place, steps)
    return finetune(FinetuneSettings(**{**SETTINGS, **changes}), workspace, progress), progress


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    root = tmp_path_factory.mktemp("finetune")
    workspace = prepared(root)
    result, progress = run(workspace, root / "run", arms=["control", "both"], seeds=[0, 1])
    return workspace, root, result, progress


def weights_of(workspace, name):
    return load_weights(workspace, load_spec(workspace, name))


def test_every_arm_and_seed_is_an_encoder_like_any_other(mended):
    workspace, root, result, _ = mended
    names = [f"small-{arm}-s{seed}" for arm in ("control", "both") for seed in (0, 1)]
    assert set(names) < set(workspace.encoders())
    assert [row["encoder"] for row in result["arms"]] == ["small", *names]
    base = weights_of(workspace, "small")
    every = [base, *(weights_of(workspace, name) for name in names)]
    for k, first in enumerate(every):
        for second in every[:k]:
            assert any(not torch.equal(first[n], second[n]) for n in first)
    spec = load_spec(workspace, "small-both-s1")
    assert (spec.method, spec.feature_dim) == ("byol", 16)
    assert load_encoder(workspace, "small-both-s1").embed(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).shape == (1, 16)
    again, _ = run(workspace, root / "on", encoder="small-both-s1", arms=["control"], seeds=[0])  # it has its head too
    assert again["arms"][1]["encoder"] == "small-both-s1-control-s0"


def test_figures_are_those_of_the_scored_encoders(mended):
    """Each row against the results of probe and score of that encoder, by other ways than the job's."""
    workspace, _, result, _ = mended
    for row in result["arms"]:
        name = row["encoder"]
        probe = latest_result(workspace.results("pets", name, "probe"))
        score = latest_result(workspace.results("pets", name, "score"))
        assert row["top1"] == pytest.approx(probe.content["summary"]["top1"])
        assert row["auroc"] == pytest.approx(score.content["summary"]["reports"]["q"]["auroc"])
        table = score.table("scores").merge(probe.table("predictions")[["sample_id", "correct"]], on="sample_id")
        table = table[table["split"] == "test"]
        right = table["correct"].astype(bool)
        assert row["q_correct"] == pytest.approx(table.loc[right, "q"].mean())
        assert row["q_wrong"] == pytest.approx(table.loc[~right, "q"].mean(), nan_ok=True)
        assert row["empty_share"] == pytest.approx((table["n_chosen"] == 0).mean())


def test_compression_and_panel_are_those_of_the_stored_rows(mended):
    """The probe on the 60 % of features that are kept along the path, and class means of unit rows, by the public functions."""
    from sslviz import linear_probe
    from sslviz.analysis.compression import subset

    workspace, _, _, _ = mended
    result = latest_result(workspace.results("pets", "small", "finetune"))
    name, arm = "small-both-s1", {"arm": "both", "seed": 1}
    shares = latest_result(workspace.results("pets", name, "score")).table("features").sort_values("feature")["share"].to_numpy()
    l2 = latest_result(workspace.results("pets", "small", "probe")).content["summary"]["l2"]  # the base's
    embedded = open_embedded(workspace, "pets", name)
    parts = {split: embedded.samples[embedded.samples["split"] == split] for split in ("train", "test")}
    rows = {split: embedded.store.read(part["row"].to_numpy()) for split, part in parts.items()}
    kept = subset(shares, "discriminative", 0.4)
    assert len(kept) == round(0.6 * len(shares))
    labels = {split: part["label"].to_numpy() for split, part in parts.items()}
    probe = linear_probe(rows["train"][:, kept], labels["train"], rows["test"][:, kept], labels["test"], l2=l2)

    def own(table):
        return table[(table[list(arm)] == pd.Series(arm)).all(axis=1)]

    images = own(result.table("images")).set_index("sample_id").loc[parts["test"]["sample_id"]]
    assert images["correct_40"].astype(bool).tolist() == (probe.predictions == labels["test"]).tolist()
    base = judge(workspace, "pets", "small", 0.5, None, Progress())
    strict = judge(workspace, "pets", name, 0.5, replace(base, l2_40=100.0), Progress()).images
    probe = linear_probe(rows["train"][:, kept], labels["train"], rows["test"][:, kept], labels["test"], l2=100.0)
    assert strict.loc[parts["test"]["sample_id"], "correct_40"].tolist() == (probe.predictions == labels["test"]).tolist()
    unit = rows["test"] / np.linalg.norm(rows["test"], axis=1, keepdims=True)
    panel = own(result.table("panels"))
    assert len(panel)
    for line in panel.itertuples():
        chosen = (labels["test"] == line.label) & (images["correct"].astype(bool).to_numpy() == (line.outcome == "correct"))
        assert line.mean == pytest.approx(unit[chosen][:, line.feature].mean(), abs=1e-5)


def test_q_fixed_uses_the_features_of_the_base(mended):
    from sslviz import q_score

    workspace, _, _result, _ = mended
    features = latest_result(workspace.results("pets", "small", "score")).table("features")
    chosen = features.loc[features["chosen"], "feature"].to_numpy()
    images = latest_result(workspace.results("pets", "small", "finetune")).table("images")
    embedded = open_embedded(workspace, "pets", "small-both-s0")
    test = embedded.samples[embedded.samples["split"] == "test"]
    expected = pd.Series(q_score(embedded.store.read(test["row"].to_numpy()), chosen, 0.5), index=test["sample_id"])
    mine = images[(images["arm"] == "both") & (images["seed"] == 0)].set_index("sample_id")["q_fixed"]
    np.testing.assert_allclose(mine, expected[mine.index], rtol=1e-5)


def test_mended_and_broken_are_counted_against_the_base(mended):
    workspace, _, result, _ = mended
    images = latest_result(workspace.results("pets", "small", "finetune")).table("images")
    before = images[images["arm"] == "base"].set_index("sample_id")["correct"]
    for row in result["arms"][1:]:
        after = images[(images["arm"] == row["arm"]) & (images["seed"] == row["seed"])].set_index("sample_id")["correct"]
        pairs = [(bool(before[s]), bool(after[s])) for s in before.index]
        assert row["mended"] == pairs.count((False, True))
        assert row["broken"] == pairs.count((True, False))


def test_curves_hold_both_terms_and_what_was_watched(mended):
    workspace, _, result, _ = mended
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    assert len(curves) == 2 * 2 * 3  # arms, seeds, the base and two epochs
    first, curves = curves[curves["epoch"] == 0], curves[curves["epoch"] > 0]
    assert len(first) == 4
    assert first["loss"].isna().all()
    images = latest_result(workspace.results("pets", "small", "finetune")).table("images")
    base = images[images["arm"] == "base"]  # fewer than are sampled: all of them are watched
    watched = {"": base, "_correct": base[base["correct"].astype(bool)], "_wrong": base[~base["correct"].astype(bool)]}
    for outcome, part in watched.items():
        np.testing.assert_allclose(first[f"watched_q{outcome}"], part["q_fixed"].mean(), rtol=1e-5)
    np.testing.assert_allclose(first["watched_top1"], result["arms"][0]["top1"])
    both = curves[curves["arm"] == "both"]
    np.testing.assert_allclose(both["loss"], both["ssl_loss"] + both["q_term"] + both["l1_term"], rtol=1e-3)
    whole = abs(both["ssl_loss"]) + abs(both["q_term"]) + abs(both["l1_term"])
    np.testing.assert_allclose(both["l1_share"], both["l1_term"] / whole, rtol=0.1)  # a mean of ratios
    np.testing.assert_allclose(both["q_share"], -both["q_term"] / whole, rtol=0.1)
    assert (both["l1_term"] > 0).all()
    assert (both["q_term"] <= 0).all()
    control = curves[curves["arm"] == "control"]
    assert (control["l1_term"] == 0).all()
    assert (control["ssl_gradient"] > 0).all()
    for column in ("mean_q", "mean_l1", "empty_share", "watched_q", "watched_top1"):
        assert curves[column].notna().all(), column


def test_the_same_settings_again_take_what_is_there(mended):
    workspace, root, result, _ = mended
    left = root / "again" / "both-s1" / "checkpoint.pt"  # it was stopped just when the encoder was saved
    left.parent.mkdir(parents=True)
    left.touch()
    again, progress = run(workspace, root / "again", arms=["control", "both"], seeds=[0, 1])
    assert not left.exists()
    assert not any(stage.endswith("training") for stage in progress.stages)
    assert again["notes"] == result["notes"]
    assert json.dumps(again["arms"]) == json.dumps(result["arms"])


def test_another_way_of_making_is_not_mixed_up(mended):
    workspace, root, _, _ = mended
    with pytest.raises(InputError, match='encoder "small-both-s0" is already there, made in another way. Choose another --name'):
        run(workspace, root / "other", arms=["both"], lambda2=0.5)


def test_a_stopped_run_goes_on_exactly(mended, tmp_path):
    """Stopped in the second arm (3 steps an epoch, 2 epochs) and resumed: the bits of the uninterrupted run."""
    workspace, _, _, _ = mended
    with pytest.raises(Cancelled):
        run(workspace, tmp_path / "run", steps=10, arms=["control", "both"], seeds=[0], name="stopped")
    assert "stopped-control-s0" in workspace.encoders()
    assert "stopped-both-s0" not in workspace.encoders()
    run(workspace, tmp_path / "run", arms=["control", "both"], seeds=[0], name="stopped")
    for arm in ("control", "both"):
        ours, theirs = (weights_of(workspace, f"{lead}-{arm}-s0") for lead in ("stopped", "small"))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), arm


def test_learning_rate_zero_leaves_every_weight(mended, tmp_path):
    workspace, _, _, _ = mended
    _result, _ = run(workspace, tmp_path, arms=["both"], lr=0, name="still", optimizer="lars")
    before, after = weights_of(workspace, "small"), weights_of(workspace, "still-both-s0")
    counted = ("running_mean", "running_var", "num_batches_tracked")  # BatchNorm counts in training mode
    assert all(torch.equal(before[k], after[k]) for k in before if not k.endswith(counted))


def refreshes(monkeypatch):
    """What every choice of features anew gives, beside the weights at that moment."""
    import sslviz.jobs.arms as job

    chosen = []
    refresh = job._Watch._refresh

    def noted(self):
        refresh(self)
        chosen.append((self.regulariser.selection, {k: v.clone() for k, v in self.method.backbone.state_dict().items()}))

    monkeypatch.setattr(job._Watch, "_refresh", noted)
    return chosen


def test_refreshed_features_are_those_of_the_encoder_as_it_is_and_survive_a_resume(mended, tmp_path, monkeypatch):
    """After each epoch D is chosen from the weights of that moment, and a resumed run goes on with it."""
    chosen = refreshes(monkeypatch)
    workspace, _, _, _ = mended
    settings = {"arms": ["both"], "refresh_every": 1, "epochs": 3, "lr": 0.5}
    run(workspace, tmp_path / "a", name="straight", **settings)
    assert len(chosen) == 2
    from sslviz import select_features
    from sslviz.data.loading import read_picture
    from sslviz.encoders.run import build_encoder

    selection, weights = chosen[-1]
    dataset = datasets.load(workspace, "pets")
    ids = dataset.samples.loc[dataset.samples["split"] == "train", "sample_id"]
    images = torch.stack([read_picture(dataset.root / s, 16, 16).pixels for s in ids])
    expected = select_features(build_encoder(load_spec(workspace, "small"), weights).embed(images), eps=0.5)
    assert selection.features.tolist() == expected.features.tolist()
    result = latest_result(workspace.results("pets", "small", "finetune"))
    watched, images = result.table("curves")["watched_q"], result.table("images")
    of_base = images.loc[images["arm"] == "both", "q_fixed"].mean()
    assert watched.iloc[-1] == pytest.approx(of_base, rel=1e-4)  # curves are kept with five digits
    with pytest.raises(Cancelled):
        run(workspace, tmp_path / "b", steps=5, name="resumed", **settings)  # in the second epoch: 3 steps each
    run(workspace, tmp_path / "b", name="resumed", **settings)
    ours, theirs = (weights_of(workspace, f"{name}-both-s0") for name in ("straight", "resumed"))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_features_are_refreshed_when_asked_for_and_between_the_bases_percentiles(tmp_path, monkeypatch):
    from sslviz import select_features
    from sslviz.data.loading import read_picture
    from sslviz.encoders.run import build_encoder
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.jobs.score import ScoreSettings, score

    workspace = prepared(tmp_path)
    names = {"dataset": "pets", "encoder": "small"}
    analyze(AnalyzeSettings(**names, project=False), workspace, Progress())
    score(ScoreSettings(**names, eps=0.5, lower=10, upper=70), workspace, Progress())
    chosen = refreshes(monkeypatch)
    run(workspace, tmp_path / "run", arms=["both"], refresh_every=2, epochs=4, judge_every=3)
    ((selection, weights),) = chosen  # after the second epoch; after the last one there is nothing to choose for
    dataset = datasets.load(workspace, "pets")
    ids = dataset.samples.loc[dataset.samples["split"] == "train", "sample_id"]
    images = torch.stack([read_picture(dataset.root / s, 16, 16).pixels for s in ids])
    H = build_encoder(load_spec(workspace, "small"), weights).embed(images)
    assert selection.features.tolist() == select_features(H, 0.5, lower=10, upper=70).features.tolist()
    judged = latest_result(workspace.results("pets", "small", "finetune")).table("curves").set_index("epoch")["watched_top1"]
    assert judged.notna().to_dict() == {0: True, 1: False, 2: False, 3: True, 4: True}  # each third epoch, and the last


@pytest.mark.parametrize(("method", "weight"), [("swav", "prototypes.weight"), ("dino", "projector.last_layer.weight_v")])
def test_what_the_first_epoch_of_a_training_holds_still_moves_in_a_further_one(tmp_path, method, weight):
    workspace = prepared(tmp_path, method=method)
    run(workspace, tmp_path / "run", arms=["control"], epochs=1)
    before, after = (read_head(workspace.encoder(n) / "head.safetensors").tensors for n in ("small", "small-control-s0"))
    assert not torch.equal(before[weight], after[weight])


def test_a_fresh_head_leaves_both_networks_of_dino_as_they_were(tmp_path):
    from sslviz.jobs.arms import Trainer

    workspace = prepared(tmp_path, method="dino")
    spec = load_spec(workspace, "small").model_copy(update={"name": "bare"})
    save_encoder(workspace, spec, weights_of(workspace, "small"))
    settings = FinetuneSettings(**{**SETTINGS, "encoder": "bare", "head_epochs": 2})
    trainer = Trainer(settings, workspace, Origin.read(workspace, settings), InFolder(tmp_path / "run"))
    found, base = trainer._fresh, weights_of(workspace, "small")
    for lead in ("backbone.", "teacher_backbone."):
        for name, weight in base.items():  # the second is a mean of equal numbers, to rounding
            torch.testing.assert_close(found[lead + name], weight, rtol=1e-5, atol=1e-6)


def test_images_of_a_class_that_the_probe_does_not_know_are_left_out(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    layout = {"train/cat": 12, "train/dog": 12, "test/bird": 3, "test/cat": 6, "test/dog": 6}
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", layout))
    pretrain(PretrainSettings(**PRETRAINED), workspace, InFolder(tmp_path / "pretrained"))
    result, _ = run(workspace, tmp_path / "run", arms=["control"], epochs=1)
    assert result["n"] == 12
    assert "3 test images have no label that the probe knows and are left out" in result["notes"]
    embedded = open_embedded(workspace, "pets", "small")
    part = embedded.samples[(embedded.samples["split"] == "test") & ~embedded.samples["sample_id"].str.contains("bird")]
    H = embedded.store.read(part["row"].to_numpy())
    unit = pd.DataFrame(H / np.linalg.norm(H, axis=1, keepdims=True), index=part["sample_id"])
    tables = latest_result(workspace.results("pets", "small", "finetune"))
    images = tables.table("images").query("arm == 'base'").set_index("sample_id")
    panel = tables.table("panels").query("arm == 'base'")
    assert len(panel)
    for line in panel.itertuples():
        chosen = images[(images["label"] == line.label) & (images["correct"].astype(bool) == (line.outcome == "correct"))]
        assert line.mean == pytest.approx(unit.loc[chosen.index, line.feature].mean(), abs=1e-5)
    nobody = Workspace(tmp_path / "v").create()
    datasets.add_folder(nobody, "pets", folder(tmp_path / "strange", {"train/cat": 12, "train/dog": 12, "test/bird": 6}))
    pretrain(PretrainSettings(**PRETRAINED), nobody, InFolder(tmp_path / "pretrained2"))
    result, _ = run(nobody, tmp_path / "run2", arms=["control"], epochs=1)
    assert any("no test image has a label that the probe knows" in note for note in result["notes"])


def test_watching_changes_no_bit(mended, tmp_path):
    workspace, _, _, _ = mended
    for name, every in (("watched", 1), ("unwatched", 0)):
        run(workspace, tmp_path / name, arms=["both"], name=name, judge_every=every)
    ours, theirs = (weights_of(workspace, f"{name}-both-s0") for name in ("watched", "unwatched"))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_the_strong_arm_pulls_with_a_hundredth_of_the_force(mended, tmp_path):
    workspace, _, _, _ = mended
    _result, progress = run(workspace, tmp_path, arms=["strong"], lr=0, lambda1=1e-4, name="strong")
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    ratio = curves["q_gradient"] / curves["ssl_gradient"]
    assert ratio[1] == pytest.approx(0.01, rel=0.02)  # the very batches that it was measured on
    assert ratio[2] == pytest.approx(0.01, rel=0.25)  # others
    assert any("strong: lambda1 is" in line for line in progress.said)
    again, progress = run(workspace, tmp_path / "again", arms=["strong"], lr=0, lambda1=1e-4, name="strong")
    assert not any(stage.endswith("training") for stage in progress.stages)
    assert any("strong: lambda1 is" in note for note in again["notes"])  # what is said of an arm stays with its encoder


def test_what_each_arm_weighs(mended, tmp_path):
    from sslviz.jobs.arms import Trainer
    from sslviz.jobs.finetune import ARMS

    workspace, _, _, _ = mended
    settings = FinetuneSettings(**{**SETTINGS, "lambda1": 3.0, "lambda2": 5.0})
    trainer = Trainer(settings, workspace, Origin.read(workspace, settings), InFolder(tmp_path))
    trainer.strong = 7.0
    weights = {arm: trainer._weights(arm)[0] for arm in ARMS}
    assert {arm: (w.lambda1, w.lambda2, w.lasso) for arm, w in weights.items()} == {
        "control": (0, 0, False),
        "both": (3, 5, False),
        "lambda1": (3, 0, False),
        "lambda2": (0, 5, False),
        "lasso": (0, 5, True),
        "strong": (7, 5, False),
    }


def test_what_an_encoder_follows_from_is_named_where_it_counts(mended, tmp_path, monkeypatch):
    """eps only where D is chosen anew; how far LARS moves biases only where LARS moves them."""
    from sslviz.methods import METHODS

    def of_a_setting(**changes):
        settings = FinetuneSettings(**{**SETTINGS, **changes})
        trainer = arms.Trainer(settings, mended[0], Origin.read(mended[0], settings), InFolder(tmp_path))
        return trainer._made_of(trainer._plain, 0)["a setting"]

    assert of_a_setting(eps=1.5) == of_a_setting(eps="auto")
    assert of_a_setting(eps=1.5, refresh_every=1) != of_a_setting(eps="auto", refresh_every=1)
    before = {optimizer: of_a_setting(optimizer=optimizer) for optimizer in ("lars", "sgd")}
    monkeypatch.setattr(METHODS["byol"], "recipe", replace(METHODS["byol"].recipe, lars_biases=0.5))
    assert of_a_setting(optimizer="lars") != before["lars"]
    assert of_a_setting(optimizer="sgd") == before["sgd"]


def test_a_fresh_head_is_the_same_whenever_it_is_trained(mended, tmp_path):
    workspace = mended[0]
    spec = load_spec(workspace, "small")
    save_encoder(workspace, spec.model_copy(update={"name": "headless", "method": "simclr"}), weights_of(workspace, "small"))
    settings = FinetuneSettings(**{**SETTINGS, "encoder": "headless", "head_epochs": 2})
    heads = []
    for seed in (1, 2):
        torch.manual_seed(seed)  # whatever ran before
        trainer = arms.Trainer(settings, workspace, Origin.read(workspace, settings), InFolder(tmp_path / str(seed)))
        heads.append(trainer._fresh)
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_probes_have_the_l2_of_the_bases_own(mended, tmp_path, monkeypatch):
    """That on 60 % of the features, and those that are watched in training."""
    import sslviz.jobs.mended as job

    workspace, asked = mended[0], []
    probe = job.linear_probe

    def noted(*given, l2):
        asked.append(l2)
        return probe(*given, l2=l2)

    monkeypatch.setattr(job, "linear_probe", noted)
    monkeypatch.setattr(arms, "linear_probe", noted)
    run(workspace, tmp_path, arms=["control"], name="watched", epochs=1)
    own = latest_result(workspace.results("pets", "small", "probe")).content["summary"]["l2"]
    assert asked == [own] * 4  # the base on 60 %, watched at the start and at the end, the arm on 60 %
    assert latest_result(workspace.results("pets", "small", "finetune")).content["settings"]["processes"] == 1  # changes figures


def test_heatmaps_are_compared_where_every_encoder_has_one():
    from types import SimpleNamespace

    from sslviz.jobs.finetune import _differences

    images = pd.DataFrame({"q": [0.1, 0.2, 0.3], "correct": [True, True, True]}, index=list("abc"))
    looks = images[["correct"]].assign(core=[0.2, 0.4, 0.9], spurious=0.1)
    base = SimpleNamespace(images=images, looks=looks)
    arm = SimpleNamespace(images=images, looks=looks.drop(index="c").assign(core=[0.4, 0.8]))
    found = _differences([("base", -1, base), ("both", 0, arm)]).set_index("figure")
    assert found.loc["core_correct", "mean"] == pytest.approx(0.6 - 0.3)


def test_images_that_no_encoder_shares_are_no_comparison(mended, tmp_path, monkeypatch):
    import sslviz.jobs.mended as job

    judge = job.judge

    def elsewhere(workspace, dataset, encoder, *rest, **more):
        found = judge(workspace, dataset, encoder, *rest, **more)
        return found if encoder == "small" else replace(found, images=found.images.rename(index=lambda name: f"other/{name}"))

    monkeypatch.setattr(job, "judge", elsewhere)
    with pytest.raises(InputError, match="no test image could be judged by every encoder"):
        run(mended[0], tmp_path, arms=["control"])


def test_what_is_kept_of_dino_is_its_teacher(tmp_path):
    from sslviz.methods.heads import put_together

    workspace = prepared(tmp_path, method="dino")
    run(workspace, tmp_path / "run", arms=["both"], refresh_every=1)
    spec = load_spec(workspace, "small-both-s0")
    kept, head = weights_of(workspace, spec.name), read_head(workspace.encoder(spec.name) / "head.safetensors")
    method = put_together(spec, kept, head)[0]
    assert any(
        not torch.equal(a, b) for a, b in zip(method.backbone.parameters(), method.teacher_backbone.parameters(), strict=True)
    )
    for name, tensor in method.teacher_backbone.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


def test_a_process_measures_its_share_of_the_batch(mended, monkeypatch):
    from sslviz.jobs import finetune as module
    from sslviz.jobs import inputs

    workspace, _, _, _ = mended
    found = {}
    for batch, processes in ((8, 1), (16, 1), (16, 2)):
        settings = FinetuneSettings(**{**SETTINGS, "batch_size": batch, "processes": processes})
        found[batch, processes] = module.estimate(settings, *module.check(settings, workspace))
    fixed = 2 * found[8, 1].memory - found[16, 1].memory  # weights, gradients, momentum
    assert found[16, 1].memory > found[8, 1].memory > fixed > 0
    assert found[16, 2].memory == pytest.approx(2 * found[8, 1].memory)  # two processes of 8 on one machine
    with monkeypatch.context() as cluster:  # what SLURM started counts, not what was asked for
        cluster.setenv("SLURM_NTASKS", "2")
        cluster.setenv("SLURM_NTASKS_PER_NODE", "1")
        settings = FinetuneSettings(**{**SETTINGS, "batch_size": 16, "processes": 8})
        found_there = module.estimate(settings, *module.check(settings, workspace))
    assert found_there.memory == pytest.approx(found[8, 1].memory)
    monkeypatch.setattr(inputs, "available_memory", lambda: int(1e9 * found[8, 1].memory) - 1)
    settings = FinetuneSettings(**SETTINGS)
    with pytest.raises(InputError, match="Choose --input files, or a smaller --batch-size"):
        module.estimate(settings, *module.check(settings, workspace))
    odd = FinetuneSettings(**{**SETTINGS, "batch_size": 9, "processes": 2})
    with pytest.raises(InputError, match="batch size 9: expected at least 2 for each of the 2 processes"):
        module.check(odd, workspace)


def test_an_encoder_without_its_head_gets_a_fresh_one_on_frozen_weights(mended, tmp_path, monkeypatch):
    workspace, _, _, _ = mended
    spec = load_spec(workspace, "small")
    save_encoder(workspace, spec.model_copy(update={"name": "bare", "method": "unknown"}), weights_of(workspace, "small"))
    assert read_head(workspace.encoder("bare") / "head.safetensors") is None
    with pytest.raises(InputError, match=r'"bare" came without its head and its method is unknown. Say which loss .* --method'):
        run(workspace, tmp_path / "a", encoder="bare")
    begun, trained, true = [], [], arms.train

    def watched(method, *given, **more):
        begun.append({k: v.clone() for k, v in method.state_dict().items()})
        said = any("came without its head: a fresh one is trained on the frozen encoder for 2 epochs" in s for s in progress.said)
        assert said  # before it is trained, not only in the result
        done = true(method, *given, **more)
        trained.append({k: v.clone() for k, v in method.state_dict().items()})
        return done

    monkeypatch.setattr(arms, "train", watched)
    progress = InFolder(tmp_path / "b")
    asked = {"encoder": "bare", "method": "simclr", "arms": ["control"], "lr": 0.0, "head_epochs": 2}
    finetune(FinetuneSettings(**{**SETTINGS, **asked}), workspace, progress)
    head = [k for k in begun[0] if k.startswith("projector.")]
    assert len(begun) == 2
    assert all(torch.equal(begun[1][k], trained[0][k]) for k in head)  # the arm goes on from the head that was trained
    assert any(not torch.equal(begun[0][k], begun[1][k]) for k in head if k.endswith("weight"))
    before, after = weights_of(workspace, "bare"), weights_of(workspace, "bare-control-s0")
    counted = ("running_mean", "running_var", "num_batches_tracked")
    assert all(torch.equal(before[k], after[k]) for k in before if not k.endswith(counted))


def test_a_method_that_does_not_exist_is_called_so(mended, tmp_path):
    workspace = mended[0]
    spec = load_spec(workspace, "small")
    save_encoder(workspace, spec.model_copy(update={"name": "naked", "method": "unknown"}), weights_of(workspace, "small"))
    with pytest.raises(InputError, match='unknown method "byoll". Did you mean "byol"'):
        run(workspace, tmp_path, encoder="naked", method="byoll")


def test_a_head_of_another_method_than_asked_for_gives_way_to_a_fresh_one(mended):
    from sslviz.encoders.store import Head

    workspace, _, _, _ = mended
    spec = load_spec(workspace, "small").model_copy(update={"name": "foreign", "method": "unknown"})
    head = Head({"nothing.weight": torch.ones(4, 16)}, {"writer": "somebody", "method": "swav"})
    save_encoder(workspace, spec, weights_of(workspace, "small"), head)
    with pytest.raises(InputError, match=r"that is not known. Say which loss to go on with: --method"):
        Origin.read(workspace, FinetuneSettings(**{**SETTINGS, "encoder": "foreign"}))
    with pytest.raises(InputError, match="simclrr, that is not known"):
        Origin.read(workspace, FinetuneSettings(**{**SETTINGS, "encoder": "foreign", "method": "simclrr"}))
    origin = Origin.read(workspace, FinetuneSettings(**{**SETTINGS, "encoder": "foreign", "method": "simclr"}))
    assert origin.head is None
    assert "came with a head that is none of simclr: a fresh one is trained" in origin.notes[0]


def test_arms_of_one_seed_see_the_same_views_in_the_same_order(mended, tmp_path):
    workspace, _, _, _ = mended
    run(workspace, tmp_path, arms=["control", "both"], name="nil", epochs=1, lambda1=0.0, lambda2=0.0)
    a, b = (weights_of(workspace, f"nil-{arm}-s0") for arm in ("control", "both"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_what_cannot_be_trained_is_refused_before_the_work(mended, tmp_path):
    workspace, _, _, _ = mended
    for changes, words in (
        ({"arms": []}, "at least one arm"),
        ({"encoder": "nobody"}, 'unknown encoder "nobody"'),
    ):
        with pytest.raises(Exception, match=words):
            run(workspace, tmp_path, **changes)


@pytest.mark.parametrize(
    ("given", "pace", "most"),
    [
        ({}, (50, 1e-5, 5), 0),
        ({"preset": "small"}, (10, 0.2, 1), 1024),
        ({"preset": "small", "lr": 0.0, "epochs": 1, "images": 0}, (1, 0.0, 0), 0),
        ({"epochs": 3, "warmup_epochs": 2, "images": 99}, (3, 1e-5, 2), 99),
    ],
)
def test_length_and_pace_are_the_presets_unless_given(given, pace, most):
    settings = FinetuneSettings(dataset="a", encoder="b", **given)
    assert (settings.pace(), settings.most()) == (pace, most)


def test_a_fixed_draw_of_the_images_is_trained_on_whatever_the_seed(tmp_path, monkeypatch):
    from sslviz.training.sources import InMemory

    workspace, used = prepared(tmp_path), []
    batches = InMemory.batches

    def watched(source, plan, device):
        plan = list(plan)
        rows = sorted(row for step in plan for row in step.rows)
        used.append((len(source), len(rows), source.pixels.sum().item()))
        return batches(source, plan, device)

    monkeypatch.setattr(InMemory, "batches", watched)
    result, _ = run(workspace, tmp_path / "run", arms=["control"], seeds=[0, 1], images=17, epochs=1)
    assert result["images"] == 17
    assert {(n, per_epoch) for n, per_epoch, _ in used} == {(17, 16)}
    assert len({pixels for *_, pixels in used}) == 1
    dataset = datasets.load(workspace, "pets")
    every = train_ids(dataset)
    drawn = train_ids(dataset, 17)
    assert len(drawn) == 17 < len(every) == 24
    assert [i for i in every if i in set(drawn)] == drawn
    assert drawn != every[:17]
    assert train_ids(dataset, 25) == every
    with pytest.raises(InputError, match="already there, made in another way"):
        run(workspace, tmp_path / "more", arms=["control"], images=18, epochs=1)
    with pytest.raises(InputError, match="has 24 train images, of which 7 are used; expected at least one batch of 8"):
        run(workspace, tmp_path / "few", images=7)


def test_the_command_of_settings_gives_the_settings_again():
    settings = FinetuneSettings(**{**SETTINGS, "arms": ["both", "lasso"], "seeds": [1, 2], "normalise": False})
    words = command_of("finetune", settings).split()
    assert words[:2] == ["sslviz", "finetune"]
    given = {"arms": [], "seeds": []}
    while words[2:]:
        flag = words.pop(2).removeprefix("--").replace("-", "_")
        if flag.startswith("no_"):
            given[flag.removeprefix("no_")] = False
        elif isinstance(given.get(flag), list):
            given[flag].append(words.pop(2))
        else:
            given[flag] = words.pop(2)
    assert parse(FinetuneSettings, given) == settings


def test_every_flag_of_a_command_is_an_option_of_the_command_line():
    """Also those that turn a setting off."""
    from typer.testing import CliRunner

    from sslviz.cli import app

    said = CliRunner().invoke(app, ["finetune", "--help"], env={"COLUMNS": "200"}).output
    settings = FinetuneSettings(**{**SETTINGS, "arms": ["both"], "seeds": [1], "normalise": False})
    flags = [word for word in command_of("finetune", settings).split() if word.startswith("--")]
    assert "--no-normalise" in flags
    assert [flag for flag in flags if flag not in said] == []


def test_the_encoder_as_it_was_stored_gives_its_method_again(mended):
    """Backbone and head together are the method whose training goes on: momentum network and predictor included."""
    workspace, _, _, _ = mended
    origin = Origin.read(workspace, FinetuneSettings(**SETTINGS))
    method = origin.method()
    head = read_head(workspace.encoder("small") / "head.safetensors")
    assert origin.made.method == "byol"
    assert origin.made.views.scale == (0.5, 1.0)
    for name, tensor in method.state_dict().items():
        stored = head.tensors[name] if name in head.tensors else weights_of(workspace, "small")[name.removeprefix("backbone.")]
        assert torch.equal(tensor, stored), name


def test_settings_come_from_a_file_and_options_beside_it_win(tmp_path, monkeypatch):
    """Also an option whose value is the usual one."""
    from typer.testing import CliRunner

    from sslviz.cli import app, jobs

    asked = []
    monkeypatch.setattr(jobs, "run_and_print", lambda job, settings, *rest: asked.append(settings))
    path = tmp_path / "recipe.json"

    def given(*options, config=path, names=("--dataset", "pets", "--encoder", "small")):
        words = ["finetune", *names, "--config", str(config), *options]
        return CliRunner().invoke(app, [*words, "--workspace", str(tmp_path / "w")])

    content = {"epochs": 3, "lambda1": 0.5, "seeds": [1, 2], "batch_size": 1024, "normalise": False}
    path.write_text(json.dumps({"job": "finetune", "settings": content}))
    assert given("--lambda1", "0.25", "--batch-size", "256", "--seeds", "0").exception is None
    (found,) = asked
    assert (found.epochs, found.seeds, found.lambda1, found.dataset) == (3, [0], 0.25, "pets")
    assert (found.batch_size, found.normalise) == (256, False)
    path.write_text(json.dumps({"job": "finetune", "settings": {**content, "dataset": "own", "encoder": "its"}}))
    assert given(names=()).exception is None  # a run's config.json says all
    assert (asked[1].dataset, asked[1].encoder, asked[1].seeds) == ("own", "its", [1, 2])
    assert given().exception is None
    assert asked[2].dataset == "pets"
    path.write_text(json.dumps({"job": "finetune", "settings": {"epoch": 3}}))
    assert "epoch is not a setting of finetune" in str(given().exception)
    path.write_text(json.dumps({"job": "pretrain", "settings": {}}))
    assert 'expected {"job": "finetune"' in str(given().exception)
    assert "no file" in str(given(config=tmp_path / "none.json").exception)


def test_a_heads_digest_changes_with_any_tensor():
    from sslviz.encoders.store import Head

    digests = {Head({"w": torch.ones(2), "count": torch.tensor(k)}, {}).digest() for k in (1, 2)}
    assert len(digests | {Head({"w": torch.zeros(2), "count": torch.tensor(1)}, {}).digest()}) == 3


@pytest.mark.parametrize("name", ["imagenet100-resnet18", "imagenet1k-resnet50"])
def test_recipes_are_settings_of_this_version(name):
    from pathlib import Path

    content = json.loads((Path(__file__).parents[2] / "recipes" / f"{name}.json").read_text())
    assert content["job"] == "finetune"
    found = parse(FinetuneSettings, {**content["settings"], "dataset": "a", "encoder": "b"})
    assert found.pace() == (50, 1e-5, 5)
    assert (found.lambda1, found.lambda2, found.optimizer) == (1e-4, 1e-4, "lars")


def test_without_labels_the_terms_are_watched_and_right_and_wrong_are_not_told_apart(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"train": 24, "test": 8}))
    pretrain(PretrainSettings(**PRETRAINED), workspace, InFolder(tmp_path / "pretrained"))
    result, _ = run(workspace, tmp_path / "run", arms=["control", "both"])
    assert result["verdict"] == ""
    assert [row["top1"] for row in result["arms"]] == [None] * 3
    assert all(row["q_all"] is not None for row in result["arms"])
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    assert curves["watched_q"].notna().all()


def test_without_a_test_split_train_images_are_judged_out_of_fold(tmp_path):
    workspace = Workspace(tmp_path / "w").create()
    datasets.add_folder(workspace, "pets", folder(tmp_path / "pets", {"train/cat": 16, "train/dog": 16}))
    pretrain(PretrainSettings(**PRETRAINED), workspace, InFolder(tmp_path / "pretrained"))
    result, progress = run(workspace, tmp_path / "run", arms=["both"], epochs=1)
    assert (result["judged_on"], result["n"]) == ("train", 32)
    assert any("there is no test split" in line for line in progress.said)
    assert all("top1_40" not in row or row["top1_40"] is None for row in result["arms"])
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    assert curves["watched_top1"].isna().all()  # all images are watched: no other is left to train a probe on


def test_looks_are_judged_where_the_masks_are(tmp_path):
    """Masks on train images only, as in Salient ImageNet: overlaps come from those, all else from test images."""
    from sslviz.data.masks import add_masks
    from sslviz.jobs.analyze import AnalyzeSettings, analyze
    from sslviz.jobs.interpret import InterpretSettings, interpret
    from tests.data.test_masks import blob, put

    workspace = prepared(tmp_path)
    for c in ("cat", "dog"):
        for i in range(12):
            put(tmp_path / f"masks/core/train/{c}/{i:03d}.png", blob(i, 32, 32))
    add_masks(datasets.load(workspace, "pets"), tmp_path / "masks")
    names = {"dataset": "pets", "encoder": "small"}
    analyze(AnalyzeSettings(**names, eps=0.5, project=False), workspace, Progress())
    interpret(InterpretSettings(**names, threshold=0.3), workspace, Progress())
    result, _ = run(workspace, tmp_path / "run", arms=["control"], epochs=1)
    assert result["judged_on"] == "test"
    for row in result["arms"]:
        seen = latest_result(workspace.results("pets", row["encoder"], "interpret"))
        assert seen.content["settings"]["threshold"] == 0.3
        looks = seen.table("looks")
        right = looks[looks["correct"].astype(bool)]
        assert row["core_correct"] == pytest.approx(right["core_iou_map"].mean(), nan_ok=True)
    table = latest_result(workspace.results("pets", "small", "finetune")).table("differences")
    assert (table["figure"] == "top1").sum() == 2  # once beside the base, once beside the control
    assert result_state(workspace, datasets.load(workspace, "pets"), "small", "finetune")[0] == "fresh"
    put(tmp_path / "masks/core/train/cat/000.png", blob(3, 32, 32))
    add_masks(datasets.load(workspace, "pets"), tmp_path / "masks")
    assert result_state(workspace, datasets.load(workspace, "pets"), "small", "finetune")[:2] == (
        "stale",
        "masks have changed since",
    )


def test_arms_are_measured_as_the_base_was(tmp_path):
    """A base judged by the paper's probe and other percentiles: so are its arms."""
    from sslviz.jobs.probe import ProbeSettings, probe
    from sslviz.jobs.score import ScoreSettings, score

    workspace = prepared(tmp_path)
    names = {"dataset": "pets", "encoder": "small"}
    embed(EmbedSettings(**names), workspace, Progress())
    probe(ProbeSettings(**names, protocol="sgd100"), workspace, Progress())
    score(ScoreSettings(**names, eps=0.5, lower=20, damage=4), workspace, Progress())
    run(workspace, tmp_path / "run", arms=["both"], epochs=1)
    base = judge(workspace, "pets", "small", 0.5, None, Progress())  # a probe without L2 says none for 60 % of the features:
    assert base.l2 is None
    assert base.l2_40 == judge(workspace, "pets", "small-both-s0", 0.5, replace(base, l2_40=base.l2_40), Progress()).l2_40
    assert judge(workspace, "pets", "small-both-s0", 0.5, replace(base, l2_40=100.0), Progress()).l2_40 == 100  # the base's
    embed(EmbedSettings(dataset="pets", encoder="small-both-s0", store_dtype="float16"), workspace, Progress())
    run(workspace, tmp_path / "run", arms=["both"], epochs=1)
    assert open_embedded(workspace, "pets", "small-both-s0").store.meta["dtype"] == "float32"
    made = {job: latest_result(workspace.results("pets", "small-both-s0", job)).content["settings"] for job in ("probe", "score")}
    assert made["probe"]["protocol"] == "sgd100"
    assert (made["score"]["lower"], made["score"]["eps"], made["score"]["damage"]) == (20, 0.5, 0)
    chosen = latest_result(workspace.results("pets", "small", "score")).table("features")["chosen"].sum()
    result = latest_result(workspace.results("pets", "small", "finetune")).content["summary"]
    assert result["n_discriminative"] == chosen


def test_a_data_set_that_changed_meanwhile_gives_no_before_and_after(tmp_path, monkeypatch):
    import sslviz.jobs.arms as job
    from sslviz.errors import Stale
    from tests.inputs import encoded, picture

    workspace = prepared(tmp_path)
    trained = job.Trainer.train

    def then_one_more(self, plan, progress):
        made = trained(self, plan, progress)
        (tmp_path / "pets/test/cat/new.png").write_bytes(encoded(picture(77)))
        return made

    monkeypatch.setattr(job.Trainer, "train", then_one_more)
    with pytest.raises(Stale, match=r'images of "pets" came or went .* The encoders stay \(small-both-s0\): sslviz compare'):
        run(workspace, tmp_path / "run", arms=["both"], epochs=1)
    assert "small-both-s0" in workspace.encoders()
    with pytest.raises(InputError, match="is already there, made in another way"):  # of one image less
        run(workspace, tmp_path / "again", arms=["both"], epochs=1)


def test_a_checkpoint_of_another_start_is_not_gone_on_with(mended, tmp_path):
    """Cancelled, then the base changed under its name: what was trained stays, and why it is of no use is said."""
    workspace, _, _, _ = mended
    for name in ("first", "second"):
        spec = load_spec(workspace, "small")
        weights = weights_of(workspace, "small" if name == "first" else "small-control-s1")
        head = read_head(workspace.encoder("small") / "head.safetensors")
        save_encoder(workspace, spec.model_copy(update={"name": "swapped"}), weights, head)
        if name == "first":
            with pytest.raises(Cancelled):
                run(workspace, tmp_path / "run", steps=4, encoder="swapped", arms=["both"])
    checkpoint = tmp_path / "run" / "both-s0" / "checkpoint.pt"
    was = checkpoint.read_bytes()
    words = "the encoder and its discriminative features changed since this run began.*both-s0.*sslviz runs delete run"
    with pytest.raises(InputError, match=words):
        run(workspace, tmp_path / "run", encoder="swapped", arms=["both"])
    assert checkpoint.read_bytes() == was


def test_a_resumed_run_goes_on_from_memory_however_little_is_free_then(mended, tmp_path, monkeypatch):
    from sslviz.jobs import inputs

    workspace, _, _, _ = mended
    settings = {"arms": ["control", "both"], "seeds": [0], "name": "short"}
    with pytest.raises(Cancelled):
        run(workspace, tmp_path / "run", steps=4, **settings)
    monkeypatch.setattr(inputs, "available_memory", lambda: 10_000_000_000)  # of step costs
    with monkeypatch.context() as memory:
        memory.setattr("sslviz.jobs.training._from_files", lambda *_: True)
        run(workspace, tmp_path / "run", **settings)
    for arm in ("control", "both"):
        ours, theirs = (weights_of(workspace, f"{lead}-{arm}-s0") for lead in ("short", "small"))
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), arm


def test_an_encoder_is_taken_for_another_start_only_where_nothing_of_its_making_differs(mended, tmp_path):
    """Each of these changes what an arm would be: the encoder that is there must not be handed back for it."""
    workspace, _, _, _ = mended
    other = [{"epochs": 3}, {"lr": 0.2}, {"batch_size": 6}, {"optimizer": "lars"}, {"lambda1": 2.0}, {"refresh_every": 1}]
    other += [{"precision": "bf16-mixed"}]
    for k, changes in enumerate([*other, {"input": "files", "workers": 1}]):
        with pytest.raises(InputError, match="is already there, made in another way"):
            run(workspace, tmp_path / str(k), arms=["both"], **changes)
    with pytest.raises(InputError, match="is already there, made in another way"):
        run(workspace, tmp_path / "eps", arms=["both"], eps=1.5)  # other features D
    path = workspace.encoder("small") / "head.safetensors"
    whole = path.read_bytes()
    head = read_head(path)
    key = next(name for name, tensor in head.tensors.items() if tensor.ndim == 2)
    head.tensors[key] += 0.01
    save_weights(path, head.tensors, {"sslviz": json.dumps(head.facts)})
    with pytest.raises(InputError, match="is already there, made in another way"):
        run(workspace, tmp_path / "head", arms=["both"])
    path.write_bytes(whole)


def test_an_encoder_added_while_an_arm_is_trained_is_not_overwritten(mended, tmp_path, monkeypatch):
    workspace, _, _, _ = mended
    theirs, train = weights_of(workspace, "small"), arms.train

    def slowly(*rest):
        curve = train(*rest)
        save_encoder(workspace, load_spec(workspace, "small").model_copy(update={"name": "late-both-s0"}), theirs)
        return curve

    monkeypatch.setattr(arms, "train", slowly)
    with pytest.raises(InputError, match='encoder "late-both-s0" is already there'):
        run(workspace, tmp_path / "late", arms=["both"], name="late", epochs=1)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights_of(workspace, "late-both-s0").items())


def test_names_that_cannot_be_are_said_before_anything_is_done(mended, tmp_path):
    from sslviz.jobs.finetune import check

    workspace, _, _, _ = mended
    save_encoder(
        workspace, load_spec(workspace, "small").model_copy(update={"name": "mine-both-s0"}), weights_of(workspace, "small")
    )
    for name, words in (("a b", "name"), ("mine", 'encoder "mine-both-s0" is already there')):
        with pytest.raises(InputError, match=words):
            check(FinetuneSettings(**{**SETTINGS, "arms": ["both"], "name": name}), workspace)


def test_one_image_for_each_process_is_no_batch(mended):
    from sslviz.jobs.finetune import check

    workspace, _, _, _ = mended
    with pytest.raises(InputError, match="batch size 2: expected at least 2 for each of the 2 processes"):
        check(FinetuneSettings(**{**SETTINGS, "batch_size": 2, "processes": 2}), workspace)


def test_a_cluster_is_asked_for_the_processes_that_share_a_batch(mended, monkeypatch):
    from sslviz.cli import app
    from sslviz.jobs.finetune import check
    from sslviz.jobs.slurm import on_cluster

    settings = FinetuneSettings(**{**SETTINGS, "processes": 3})
    for options, processes in (("", 3), ("partition=gpu", 1), ("gpus=4", 4), ("nodes=2,gpus=2", 4), ("nodes=3", 3)):
        assert on_cluster(settings, options).processes == processes
    check(on_cluster(settings, "nodes=2,gpus=2"), mended[0])
    with pytest.raises(InputError, match="batch size 8: expected at least 2 for each of the 5 processes"):
        check(on_cluster(settings, "gpus=5"), mended[0])
    monkeypatch.setenv("SSLVIZ_WORKSPACE", str(mended[0].root))
    words = "finetune --dataset pets --encoder small --epochs 1 --batch-size 8 --slurm"
    with pytest.raises(InputError, match="at least 2 for each of the 3 processes"):
        app([*words.split(), "nodes=3"])


def test_the_estimate_counts_every_step(mended, monkeypatch):
    """24 images in batches of 8: three steps an epoch, two epochs, two arms, three seeds; a fresh head adds its epochs."""
    from sslviz.jobs import finetune as module
    from sslviz.training.estimate import StepCost

    workspace, _, _, _ = mended
    monkeypatch.setattr("sslviz.training.estimate.step_cost", lambda *_: StepCost(2.0, 1000))
    settings = FinetuneSettings(**{**SETTINGS, "arms": ["control", "both"], "seeds": [0, 1, 2]})
    origin, n = module.check(settings, workspace)
    found = module.estimate(settings, origin, n)
    assert (found.steps, found.seconds) == (36, 72.0)
    assert found.memory == (1000 + 24 * 3 * 16 * 16) / 1e9  # a step, and the pictures
    files = module.estimate(settings.model_copy(update={"input": "files"}), origin, n)
    assert files.memory == 1000 / 1e9
    bare = module.estimate(settings, dataclasses.replace(origin, head=None), n)
    assert bare.steps == 36 + 5 * 3


def test_the_app_inside_a_launchers_job_counts_for_one(mended, monkeypatch):
    from sslviz.jobs.finetune import check
    from sslviz.jobs.runner import forget_launcher

    workspace, _, _, _ = mended
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.setenv(name, "3")
    with pytest.raises(InputError, match="the 3 processes"):
        check(FinetuneSettings(**SETTINGS), workspace)
    forget_launcher()
    check(FinetuneSettings(**SETTINGS), workspace)


def test_a_step_is_measured_on_a_few_images_and_scaled(mended, monkeypatch):
    from itertools import count

    from sslviz.jobs.finetune import check
    from sslviz.training import estimate as module

    workspace, _, _, _ = mended
    ticks = count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    origin, _ = check(FinetuneSettings(**SETTINGS), workspace)
    method = origin.method()
    cost = module.step_cost(method, origin.made.views, 16, 64, torch.device("cpu"))
    assert cost.seconds == 4.0  # 16 took one
    state = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    trained = sum(4 * p.numel() for p in method.parameters() if p.requires_grad)
    images = 2 * 64 * 3 * 16 * 16 * 4  # the least that a backward pass keeps: both views
    assert cost.bytes > state + 2 * trained + images


@pytest.mark.parametrize("name", ["simclr", "moco", "barlow_twins", "vicreg", "dino"])
def test_the_memory_of_a_step_is_that_of_the_whole_batch(name, monkeypatch):
    """What does not grow with the batch (covariances, a queue, a wide last layer) is counted once."""
    from sslviz.encoders.backbones.small_resnet import SmallResNet
    from sslviz.methods import METHODS
    from sslviz.training import estimate as module

    kind = METHODS[name]
    options = kind.options.changed(name, hidden_dim=256, output_dim=1024, queue_size=4096 if kind.options.queue_size else None)

    def cost():
        method = kind(SmallResNet(width=8, blocks=1, feature_dim=16), 16, options, 2)
        return module.step_cost(method, kind.views, 16, 96, torch.device("cpu")).bytes

    gone_on = cost()
    monkeypatch.setattr(module, "_IMAGES", 96)
    assert gone_on == pytest.approx(cost(), rel=0.02)


def test_how_far_the_weights_have_moved(mended):
    workspace, _, _, _ = mended
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    assert (curves.loc[curves["epoch"] == 0, "moved"] == 0).all()
    base = weights_of(workspace, "small")
    trained = [k for k in base if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    for arm in ("control", "both"):
        after = weights_of(workspace, f"small-{arm}-s0")
        far = sum(float((after[k] - base[k]).double().square().sum()) for k in trained)
        norm = sum(float(base[k].double().square().sum()) for k in trained)
        last = curves[(curves["arm"] == arm) & (curves["seed"] == 0)]["moved"].iloc[-1]
        assert last == pytest.approx((far / norm) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("of_base", [False, True])
def test_a_picture_that_cannot_be_read_any_more_leaves_the_comparison_and_the_watch(tmp_path, monkeypatch, of_base):
    import sslviz.jobs.mended as job

    workspace = prepared(tmp_path)
    judge = job.judge

    def less_one(workspace, dataset, encoder, *rest, **more):
        found = judge(workspace, dataset, encoder, *rest, **more)
        if (encoder == "small") == of_base:
            found.images.drop(index=found.images.index[0], inplace=True)
        return found

    from sslviz.jobs import arms

    read = arms.read_picture
    unread = []

    def fails(path, *rest, **more):
        if path.name == "001.png" and path.parent.name == "cat" and unread:
            return read(path, *rest, **more)._replace(pixels=None, error="is gone")
        return read(path, *rest, **more)

    monkeypatch.setattr(job, "judge", less_one)
    monkeypatch.setattr(arms, "read_picture", fails)
    settings = FinetuneSettings(**{**SETTINGS, "arms": ["control"], "epochs": 1})
    progress = InFolder(tmp_path / "run")
    stage = progress.stage

    def noted(name, total=0):
        unread[:] = [name] if name.endswith("training") else []
        stage(name, total)

    progress.stage = noted
    result = finetune(settings, workspace, progress)
    assert result["n"] == 11
    assert "1 test images could not be judged by every encoder and are left out" in result["notes"]
    assert any("test/cat/001.png is gone: it is not watched any more" in line for line in progress.said)
    assert all(row["top1"] * 11 == pytest.approx(round(row["top1"] * 11)) for row in result["arms"])
    table = latest_result(workspace.results("pets", "small", "finetune")).table("images")
    assert table.groupby(["arm", "seed"]).size().tolist() == [11, 11]


@pytest.mark.parametrize("eps", [0.25, 2.5])
def test_what_an_encoder_chose_for_itself_is_said(mended, tmp_path, monkeypatch, eps):
    import sslviz.jobs.mended as job

    workspace, _, _, _ = mended
    judge = job.judge

    def differs(workspace, dataset, encoder, *rest, **more):
        found = judge(workspace, dataset, encoder, *rest, **more)
        return found if encoder == "small" else replace(found, eps=eps, l2=0.125)

    monkeypatch.setattr(job, "judge", differs)
    result, _ = run(workspace, tmp_path, arms=["control"])
    base = judge(workspace, "pets", "small", 0.5, None, Progress())
    assert any(f"eps is chosen for each encoder: {base.eps:g} for the base, control {eps:g}." in note for note in result["notes"])
    assert any(f"L2 is chosen for each encoder: {base.l2:g} for the base, control 0.125." in note for note in result["notes"])


def test_pictures_that_fill_no_batch_are_refused_whatever_the_arm(mended, tmp_path, monkeypatch):
    from sslviz.training.sources import InMemory

    workspace, _, _, _ = mended
    monkeypatch.setattr(arms, "train_images", lambda *_: InMemory(torch.zeros(3, 3, 16, 16, dtype=torch.uint8)))
    for arm in ("both", "strong"):
        with pytest.raises(InputError, match="3 of 24 train images can be read; expected at least one batch of 8"):
            run(workspace, tmp_path / arm, arms=[arm], name="few")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [-1]}, "one seed of 0 or more"),
        ({"arms": []}, "at least one arm"),
        ({"epochs": 3, "warmup_epochs": 3}, "warmup-epochs: expected fewer than the 3 epochs"),
    ],
)
def test_what_makes_no_training_is_said_before_a_run_is_made_of_it(mended, changes, words):
    from sslviz.jobs.finetune import check

    with pytest.raises(InputError, match=words):
        check(FinetuneSettings(**{**SETTINGS, **changes}), mended[0])


def test_an_arm_that_pulls_hard_enough_is_not_made_weaker(mended, tmp_path):
    workspace, _, _, _ = mended
    result, _ = run(workspace, tmp_path, arms=["strong"], lambda1=1e6, lr=0.0, epochs=1, name="hard")
    assert result["arms"][1]["lambda1"] == 1e6
    assert any("has 1 % of the own loss's force or more at 1e+06" in note for note in result["notes"])


def test_panels_are_spread_over_all_of_d(mended, monkeypatch):
    import sslviz.jobs.mended as job

    monkeypatch.setattr(job, "_PANEL", 3)
    found = judge(mended[0], "pets", "small", 0.5, None, Progress())
    features = found.fixed.features
    assert len(features) > 3
    assert sorted(set(found.panel["feature"])) == [features[0], features[round((len(features) - 1) / 2)], features[-1]]


def test_what_is_watched_comes_in_blocks_that_miss_nothing(mended, tmp_path):
    from types import SimpleNamespace

    from sslviz.data.loading import read_picture

    workspace, _, _, _ = mended
    layout = folder(tmp_path / "many", {"a": 130})
    names = [f"a/{path.name}" for path in sorted((layout / "a").iterdir())]
    encoder = load_encoder(workspace, "small")
    trainer = SimpleNamespace(
        dataset=SimpleNamespace(root=layout),
        origin=SimpleNamespace(spec=encoder.spec, made=SimpleNamespace(kept=lambda method: method)),
        settings=SimpleNamespace(workers=1),
    )
    regulariser = SimpleNamespace(features=torch.empty(0))
    watch = arms._Watch(trainer, encoder.backbone, regulariser, Progress())
    blocks = list(watch._embedded(names))
    assert [len(ids) for ids, _ in blocks] == [64, 64, 2]
    assert [name for ids, _ in blocks for name in ids] == names
    size = encoder.spec.input
    pictures = torch.stack([read_picture(layout / name, size.resize, size.size, thumb=False).pixels for name in names])
    np.testing.assert_allclose(np.concatenate([H for _, H in blocks]), encoder.embed(pictures).numpy(), atol=1e-5)


def test_a_step_in_bf16_keeps_less(mended):
    from sslviz.jobs.finetune import check
    from sslviz.training.estimate import step_cost

    origin, _ = check(FinetuneSettings(**SETTINGS), mended[0])
    whole, half = (
        step_cost(origin.method(), origin.made.views, 16, 8, torch.device("cpu"), precision).bytes
        for precision in ("32-true", "bf16-mixed")
    )
    assert half < whole


def test_without_a_control_it_is_said(mended, tmp_path):
    workspace, _, _, _ = mended
    result, _ = run(workspace, tmp_path, arms=["lambda2"], name="alone", epochs=1)
    assert any(note.startswith("no control was trained as long") for note in result["notes"])
    assert result["verdict"] == ""


def test_the_bases_own_scores_keep_their_other_settings(tmp_path):
    from sslviz.jobs.score import ScoreSettings, score

    workspace = prepared(tmp_path)
    run(workspace, tmp_path / "first", arms=["control"], epochs=1)
    score(ScoreSettings(dataset="pets", encoder="small", eps=1.5, lower=20), workspace, Progress())
    assert result_state(workspace, datasets.load(workspace, "pets"), "small", "finetune")[0] == "stale"  # of another D
    result, _ = run(workspace, tmp_path / "second", arms=["both"], epochs=1)
    made = latest_result(workspace.results("pets", "small", "score")).content["settings"]
    assert (made["eps"], made["lower"]) == (0.5, 20)
    assert "small had scores at eps 1.5; they were made again at 0.5" in result["notes"]


def test_a_stale_base_is_made_again_as_it_was(tmp_path):
    from sslviz.jobs.score import ScoreSettings, score

    workspace = prepared(tmp_path)
    embed(EmbedSettings(dataset="pets", encoder="small", store_dtype="float16"), workspace, Progress())
    score(ScoreSettings(dataset="pets", encoder="small", eps=0.5, lower=20), workspace, Progress())
    picture(99).save(tmp_path / "pets/train/cat/new.png")
    run(workspace, tmp_path / "run", arms=["control"], epochs=1)
    for encoder in ("small", "small-control-s0"):
        assert latest_result(workspace.results("pets", encoder, "score")).content["settings"]["lower"] == 20
        embedded = open_embedded(workspace, "pets", encoder)
        assert (embedded.store.meta["depends"]["dtype"], len(embedded.samples)) == ("float16", 37)


def test_masks_of_other_images_only_do_not_stop_it(tmp_path, monkeypatch):
    import sslviz.jobs.mended as module
    from sslviz.data.masks import add_masks
    from tests.data.test_masks import blob, put

    workspace = prepared(tmp_path)
    put(tmp_path / "masks/core/train/cat/000.png", blob(1, 32, 32))
    add_masks(datasets.load(workspace, "pets"), tmp_path / "masks")

    def refuses(*_):
        raise InputError("no embedded image has a core mask.")

    monkeypatch.setattr(module, "interpret", refuses)
    result, _ = run(workspace, tmp_path / "run", arms=["control"], epochs=1)
    assert "no heatmaps: no embedded image has a core mask." in result["notes"]


def test_another_run_at_the_encoder_is_waited_for(mended, tmp_path, monkeypatch):
    import sslviz.jobs.mended as module
    from sslviz.errors import Busy

    workspace, _, _, _ = mended
    monkeypatch.setattr(module, "_PAUSE", 0.0)
    computed, calls = module._computed, []

    def busy_once(*given):
        calls.append(given[2])
        if len(calls) == 1:
            raise Busy("another run is at it.")
        return computed(*given)

    monkeypatch.setattr(module, "_computed", busy_once)
    _, progress = run(workspace, tmp_path, arms=["control"], name="patient", epochs=1)
    assert calls == ["small", "small", "patient-control-s0"]
    assert "waiting for another run on small" in progress.stages


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts, tensors: facts["options"].update(hidden_dim=20_000), "hidden_dim 20000 is the side of no tensor"),
        (lambda facts, tensors: facts["views"].update(n_views=9), "its views cannot be"),
        (lambda facts, tensors: facts.update(method="nothing"), "method"),
        (lambda facts, tensors: tensors["projector.layers.0.weight"].fill_(float("nan")), "holds NaN or infinity"),
        (
            lambda facts, tensors: tensors.update({"projector.layers.300000.weight": torch.ones(2, 2)}),
            "a layer at position 300000",
        ),
        (lambda facts, tensors: tensors.pop("projector.layers.3.weight"), "does not fit"),
    ],
)
def test_a_head_that_somebody_made_up_is_one_line(mended, tmp_path, change, words):
    from sslviz.encoders.store import Head
    from sslviz.errors import SslvizError

    workspace, _, _, _ = mended
    stored = read_head(workspace.encoder("small") / "head.safetensors")
    facts, tensors = json.loads(json.dumps(stored.facts)), dict(stored.tensors)
    change(facts, tensors)
    spec = load_spec(workspace, "small").model_copy(update={"name": "strange"})
    save_encoder(workspace, spec, weights_of(workspace, "small"), Head(tensors, facts))
    with pytest.raises(SslvizError, match=words):
        Origin.read(workspace, FinetuneSettings(**{**SETTINGS, "encoder": "strange"}))


def test_a_damaged_head_is_not_taken_for_none(mended):
    workspace, _, _, _ = mended
    save_encoder(workspace, load_spec(workspace, "small").model_copy(update={"name": "broken"}), weights_of(workspace, "small"))
    (workspace.encoder("broken") / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged. Add the encoder again"):
        Origin.read(workspace, FinetuneSettings(**{**SETTINGS, "encoder": "broken"}))


def test_the_command_prints_every_arm_and_seed(mended, capsys, monkeypatch):
    from rich.console import Console

    from sslviz.cli import results

    workspace, _, result, _ = mended
    monkeypatch.setattr(results, "out", Console(width=300))
    results.print_result("finetune", result, workspace)
    said = capsys.readouterr().out
    assert result["verdict"] in said
    for row in result["arms"]:
        seed = "-" if row["arm"] == "base" else str(row["seed"])
        cells = [row["arm"], seed, *(f"{100 * row[k]:.1f}" for k in ("top1", "top1_40", "auroc"))]
        assert any(line.replace("│", " ").split()[: len(cells)] == cells for line in said.splitlines()), row["arm"]
