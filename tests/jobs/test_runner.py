"""Runs in processes of their own: followed, joined, cancelled, killed, resumed, found again."""

import os
import signal
import time

import pytest

from sslviz.data import dataset as datasets
from sslviz.errors import Busy, InputError, NotFound
from sslviz.jobs import JOBS, runner
from tests.inputs import folder, small_encoder


@pytest.fixture
def photos(tmp_path, workspace):
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train/a": 20, "train/b": 20, "val/a": 8, "val/b": 8}))
    small_encoder(workspace)
    return tmp_path / "photos"


def wait(workspace, run_id, until=lambda s: s["status"] not in runner.ACTIVE, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = runner.read_run(workspace, run_id)
        if until(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"run {run_id} is still {state['status']}: {runner.log_tail(workspace, run_id)}")


def embed_settings(**options):
    return JOBS["embed"].settings(dataset="photos", encoder="tiny", **options)


def pretrain_settings(**options):
    values = {"dataset": "photos", "name": "own", "epochs": 2000, "batch_size": 20, "width": 8, "feature_dim": 16, "size": 16}
    return JOBS["pretrain"].settings(**{**values, "precision": "32-true", **options})


def test_a_run_ends_well_and_tells_its_result(workspace, photos):
    run_id, how = runner.launch("embed", embed_settings(), workspace)
    assert how == "started"
    state = wait(workspace, run_id)
    assert (state["status"], state["exit_code"], state["result"]["n"]) == ("done", 0, 56)
    assert state["facts"]["device"] == "cpu"
    assert state["done"] == state["total"] == 56
    with pytest.raises(InputError, match="nothing to resume"):
        runner.resume(workspace, run_id)
    runner.delete(workspace, run_id)
    assert runner.list_runs(workspace) == []


def test_a_second_click_joins(workspace, photos):
    first, _ = runner.launch("pretrain", pretrain_settings(), workspace)
    second, how = runner.launch("pretrain", pretrain_settings(), workspace)
    assert (second, how) == (first, "joined")
    wait(workspace, first, lambda s: s["done"] > 3)
    with pytest.raises(Busy, match="cancel it first"):
        runner.delete(workspace, first)
    with pytest.raises(Busy, match="running already"):
        runner.resume(workspace, first)
    runner.cancel(workspace, first)
    state = wait(workspace, first)
    assert (state["status"], state["exit_code"]) == ("cancelled", 130)
    assert (workspace.run(first) / "checkpoint.pt").exists()
    with pytest.raises(InputError, match="is not running"):
        runner.cancel(workspace, first)


def test_a_killed_run_is_seen_at_once_and_goes_on(workspace, photos):
    run_id, _ = runner.launch("pretrain", pretrain_settings(epochs=60), workspace)
    wait(workspace, run_id, lambda s: s["facts"].get("epoch", 0) >= 3)
    os.killpg(runner.read_run(workspace, run_id)["pid"], signal.SIGKILL)
    state = wait(workspace, run_id, seconds=5)
    assert state["status"] == "killed"
    assert runner.list_runs(workspace)[0]["status"] == "killed"
    again, how = runner.launch("pretrain", pretrain_settings(epochs=60), workspace)
    assert (again, how) == (run_id, "resumed")
    assert wait(workspace, run_id)["status"] == "done"
    import pandas as pd

    assert pd.read_parquet(workspace.run(run_id) / "metrics.parquet")["epoch"].tolist() == list(range(1, 61))
    assert "own" in workspace.encoders()


def test_sigterm_saves_and_a_hung_up_terminal_does_nothing(workspace, photos):
    run_id, _ = runner.launch("pretrain", pretrain_settings(), workspace)
    pid = wait(workspace, run_id, lambda s: s["done"] > 3)["pid"]
    os.kill(pid, signal.SIGHUP)
    before = runner.read_run(workspace, run_id)["done"]
    wait(workspace, run_id, lambda s: s["done"] > before + 2)
    os.kill(pid, signal.SIGTERM)
    assert wait(workspace, run_id)["status"] == "cancelled"


def test_bad_input_and_bugs_are_told_apart(workspace, photos, monkeypatch):
    run_id, _ = runner.launch("score", JOBS["score"].settings(dataset="photos", encoder="tiny"), workspace)
    state = wait(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("failed", 2)
    assert "no embeddings of photos by tiny" in state["error"]
    with pytest.raises(NotFound, match='unknown run "zzz"'):
        runner.read_run(workspace, "zzz")


def test_a_bug_is_called_one(workspace, photos, monkeypatch):
    def breaks(*_):
        raise KeyError("oops")

    JOBS["embed"]
    entry = JOBS._entries["embed"]
    monkeypatch.setitem(JOBS._entries, "embed", type(entry)(entry.name, entry.settings, breaks, entry.example, entry.summary))
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    run_id, _ = runner.launch("embed", embed_settings(), workspace)
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)]
    try:
        assert runner.execute(workspace, run_id) == 1
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGHUP), before, strict=True):
            signal.signal(number, handler)
    state = runner.read_run(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("failed", 1)
    assert "a bug in sslviz: KeyError" in state["error"]


def test_a_run_that_never_started_does_not_run_for_ever(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    run_id, _ = runner.launch("embed", embed_settings(), workspace)
    assert runner.read_run(workspace, run_id)["status"] == "starting"
    monkeypatch.setattr(runner, "_STARTS_WITHIN", -1.0)
    assert runner.read_run(workspace, run_id)["status"] == "killed"


def test_an_existing_encoder_is_not_trained_over(workspace, photos):
    run_id, _ = runner.launch("pretrain", pretrain_settings(name="tiny"), workspace)
    state = wait(workspace, run_id)
    assert (state["exit_code"], 'encoder "tiny" is already there' in state["error"]) == (2, True)
