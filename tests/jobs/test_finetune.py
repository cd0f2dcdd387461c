"""The finetune job from end to end on small pictures: arms, resume, what it leaves in the workspace and what it says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from sslviz.data import dataset as datasets
from sslviz.encoders.run import load_encoder
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights, read_head, save_encoder
from sslviz.errors import Cancelled, InputError
from sslviz.jobs import command_of, parse
from sslviz.jobs.finetune import FinetuneSettings, Origin, finetune
from sslviz.jobs.pretrain import PretrainSettings, pretrain
from sslviz.progress import Progress
from sslviz.store.results import latest_result
from sslviz.store.workspace import Workspace
from tests.inputs import folder

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
    result, progress = run(workspace, root / "run", arms=["control", "both", "lasso"], seeds=[0, 1])
    return workspace, root, result, progress


def weights_of(workspace, name):
    return load_weights(workspace, load_spec(workspace, name))


def test_every_arm_and_seed_is_an_encoder_like_any_other(mended):
    workspace, root, result, _ = mended
    names = [f"small-{arm}-s{seed}" for arm in ("control", "both", "lasso") for seed in (0, 1)]
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


def test_q_fixed_uses_the_features_of_the_base(mended):
    from sslviz import q_score
    from sslviz.jobs.inputs import open_embedded

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
    workspace, _, _, _ = mended
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    assert len(curves) == 3 * 2 * 2  # arms, seeds, epochs
    both = curves[curves["arm"] == "both"]
    np.testing.assert_allclose(both["loss"], both["ssl_loss"] + both["q_term"] + both["l1_term"], rtol=1e-3)
    assert (both["l1_term"] > 0).all()
    assert (both["q_term"] <= 0).all()
    control = curves[curves["arm"] == "control"]
    assert (control["l1_term"] == 0).all()
    assert (control["ssl_gradient"] > 0).all()
    for column in ("mean_q", "mean_l1", "empty_share", "watched_q", "watched_top1"):
        assert curves[column].notna().all(), column


def test_the_same_settings_again_take_what_is_there(mended):
    workspace, root, result, _ = mended
    again, progress = run(workspace, root / "again", arms=["control", "both", "lasso"], seeds=[0, 1])
    assert not any(stage.endswith("training") for stage in progress.stages)
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


def test_refreshed_features_are_chosen_from_the_encoder_as_it_is(mended, tmp_path):
    workspace, _, _, _ = mended
    run(workspace, tmp_path, arms=["both"], refresh_every=1, lr=0.5, name="refreshed")
    fixed = weights_of(workspace, "small-both-s0")
    ours = weights_of(workspace, "refreshed-both-s0")
    assert any(not torch.equal(fixed[k], ours[k]) for k in ours)


def test_the_strong_arm_pulls_with_a_hundredth_of_the_force(mended, tmp_path):
    workspace, _, _, _ = mended
    _result, progress = run(workspace, tmp_path, arms=["strong"], lr=0, name="strong")
    curves = latest_result(workspace.results("pets", "small", "finetune")).table("curves")
    ratio = curves["q_gradient"] / curves["ssl_gradient"]
    assert ratio.mean() == pytest.approx(0.01, rel=0.25)  # other batches than it was measured on
    assert any("strong: lambda1 is" in line for line in progress.said)


def test_an_encoder_without_its_head_gets_a_fresh_one_on_frozen_weights(mended, tmp_path):
    workspace, _, _, _ = mended
    spec = load_spec(workspace, "small")
    save_encoder(workspace, spec.model_copy(update={"name": "bare", "method": "unknown"}), weights_of(workspace, "small"))
    assert read_head(workspace.encoder("bare") / "head.safetensors") is None
    with pytest.raises(InputError, match=r'"bare" came without its head and its method is unknown. Say which loss .* --method'):
        run(workspace, tmp_path / "a", encoder="bare")
    _result, progress = run(workspace, tmp_path / "b", encoder="bare", method="simclr", arms=["control"], lr=0, head_epochs=1)
    assert any("came without its head: a fresh one is trained on the frozen encoder for 1 epochs" in s for s in progress.said)
    before, after = weights_of(workspace, "bare"), weights_of(workspace, "bare-control-s0")
    counted = ("running_mean", "running_var", "num_batches_tracked")
    assert all(torch.equal(before[k], after[k]) for k in before if not k.endswith(counted))


def test_what_cannot_be_trained_is_refused_before_the_work(mended, tmp_path):
    workspace, _, _, _ = mended
    for changes, words in (
        ({"arms": []}, "at least one arm"),
        ({"encoder": "nobody"}, 'unknown encoder "nobody"'),
    ):
        with pytest.raises(Exception, match=words):
            run(workspace, tmp_path, **changes)


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
