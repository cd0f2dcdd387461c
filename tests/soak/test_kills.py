"""A fine-tuning killed again and again loses at most one checkpoint interval each time, and ends as if nothing had been."""

import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from sslviz.data import dataset as datasets
from sslviz.encoders.spec import load_spec
from sslviz.encoders.store import load_weights
from sslviz.jobs import parse, runner
from sslviz.jobs.finetune import FinetuneSettings, finetune
from sslviz.jobs.pretrain import PretrainSettings, pretrain
from sslviz.store.results import latest_result
from tests.inputs import folder
from tests.jobs.test_finetune import InFolder

pytestmark = pytest.mark.soak
KILLS, EPOCHS, BATCH, IMAGES = 10, 60, 8, 80
INTERVAL = IMAGES // BATCH
ARMS = ("control", "both")


def settings(name):
    values = {"dataset": "pets", "encoder": "own", "name": name, "arms": list(ARMS), "epochs": EPOCHS, "lr": 0.1}
    return FinetuneSettings(**values, optimizer="sgd", batch_size=BATCH, eps=0.5, lambda1=1.0, lambda2=0.01, device="cpu")


def trained(workspace, run_id):
    """Steps of training that would not be made again: of whole arms, and of checkpoints."""
    steps = 0
    for arm in ARMS:
        checkpoint = workspace.run(run_id) / f"{arm}-s0" / "checkpoint.pt"
        if f"killed-{arm}-s0" in workspace.encoders():
            steps += EPOCHS * INTERVAL
        elif checkpoint.exists():
            steps += torch.load(checkpoint, weights_only=True)["step"]
    return steps


def seen(state):
    """Steps of training that the run says it has made."""
    arm = next((k for k, arm in enumerate(ARMS) if state["stage"].startswith(arm) and state["stage"].endswith("training")), None)
    return 0 if arm is None else arm * EPOCHS * INTERVAL + state["done"]


def test_killed_at_ten_random_moments(workspace, tmp_path):
    datasets.add_folder(
        workspace, "pets", folder(tmp_path / "pets", {"train/cat": 40, "train/dog": 40, "test/cat": 8, "test/dog": 8})
    )
    small = {"width": 8, "feature_dim": 16, "hidden_dim": 16, "output_dim": 8, "size": 16, "batch_size": BATCH, "epochs": 2}
    made = parse(PretrainSettings, {"dataset": "pets", "method": "byol", "name": "own", "precision": "32-true", **small})
    pretrain(made, workspace, InFolder(tmp_path / "pretrained"))
    finetune(settings("straight"), workspace, InFolder(tmp_path / "straight"))
    expected = latest_result(workspace.results("pets", "own", "finetune")).table("curves")

    furthest = 0
    for moment in sorted(random.sample(range(len(ARMS) * EPOCHS * INTERVAL * 9 // 10), KILLS)):
        run_id, _ = runner.launch("finetune", settings("killed"), workspace)
        state = runner.read_run(workspace, run_id)
        while state["status"] in runner.ACTIVE and seen(state) <= moment:
            time.sleep(0.01)
            state = runner.read_run(workspace, run_id)
        assert state["status"] == "running", runner.log_tail(workspace, run_id)
        os.killpg(state["pid"], signal.SIGKILL)
        while runner.read_run(workspace, run_id)["status"] != "killed":
            time.sleep(0.01)
        furthest = max(furthest, seen(state))
        kept = trained(workspace, run_id)
        print(f"killed at a moment after step {moment:,}: {kept:,} of {furthest:,} steps seen are kept")
        assert kept > furthest - INTERVAL
    run_id, _ = runner.launch("finetune", settings("killed"), workspace)
    while (state := runner.read_run(workspace, run_id))["status"] in runner.ACTIVE:
        time.sleep(0.1)
    assert state["status"] == "done", runner.log_tail(workspace, run_id)

    found = latest_result(workspace.results("pets", "own", "finetune")).table("curves")
    assert list(found["arm"]) == [arm for arm in ARMS for _ in range(EPOCHS + 1)]  # the base leads
    numbers = expected.select_dtypes("number")
    np.testing.assert_allclose(found[numbers.columns], numbers, rtol=1e-5, atol=1e-8)
    for arm in ARMS:
        ours, theirs = (load_weights(workspace, load_spec(workspace, f"{name}-{arm}-s0")) for name in ("killed", "straight"))
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
