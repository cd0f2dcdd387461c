"""Runs in processes of their own: followed, joined, cancelled, killed, resumed, found again."""

import json
import os
import re
import signal
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from sslviz.cli import app
from sslviz.data import dataset as datasets
from sslviz.errors import Busy, InputError, NotFound
from sslviz.jobs import JOBS, runner
from sslviz.jobs.pretrain import pretrain
from sslviz.store.files import write_json
from tests.inputs import folder, small_encoder
from tests.jobs.test_finetune import InFolder


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


def trains(state):
    """Past its first steps; reading the pictures counts too, as another stage."""
    return state["stage"] == "training" and state["done"] > 3


def embed_settings(**options):
    return JOBS["embed"].settings(dataset="photos", encoder="tiny", **options)


def pretrain_settings(**options):
    values = {"dataset": "photos", "name": "own", "epochs": 2000, "batch_size": 20, "width": 8, "feature_dim": 16, "size": 16}
    return JOBS["pretrain"].settings(**{**values, "precision": "32-true", **options})


def test_a_run_ends_well_and_tells_its_result(workspace, photos, tmp_path, monkeypatch):
    for name in ("numpy", "torch", "types", "sslviz"):  # what lies in the folder it is started in is not run
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current folder was run')")
    monkeypatch.chdir(tmp_path)
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


def test_readers_share_the_cores(monkeypatch):
    from sslviz.jobs import readers

    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(24), raising=False)
    assert (readers(None), readers(5)) == (16, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert readers(None) == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert readers(None) == 2


def test_another_source_is_another_run(workspace, monkeypatch):
    from sslviz.jobs.import_data import ImportDataSettings

    monkeypatch.setattr(runner, "_start", lambda *_: None)
    ids = {
        runner.launch("import_data", ImportDataSettings(name="x", source=f"torchvision:{name}"), workspace)[0]
        for name in ("CIFAR10", "STL10", "CIFAR10")
    }
    assert len(ids) == 2


def test_a_second_click_joins(workspace, photos):
    first, _ = runner.launch("pretrain", pretrain_settings(), workspace)
    with pytest.raises(Busy, match=rf"running with other settings \(epochs, lr\)\. .* sslviz runs cancel {first}"):
        runner.launch("pretrain", pretrain_settings(epochs=61, lr=0.5), workspace)
    for same in ({}, {"workers": 3}):
        second, how = runner.launch("pretrain", pretrain_settings(**same), workspace)
        assert (second, how) == (first, "joined")
    wait(workspace, first, trains)
    with pytest.raises(Busy, match="cancel it first"):
        runner.delete(workspace, first)
    with pytest.raises(Busy, match="running already"):
        runner.resume(workspace, first)
    runner.cancel(workspace, first)
    state = wait(workspace, first)
    assert (state["status"], state["exit_code"]) == ("cancelled", 130)
    assert (workspace.run(first) / "checkpoint.pt").exists()
    for stop in (runner.cancel, runner.kill):
        with pytest.raises(InputError, match="is not running"):
            stop(workspace, first)


def test_other_readers_go_on_with_the_run_that_was_stopped(workspace, monkeypatch):
    def stopped(workspace, run_id):
        write_json(workspace.run(run_id) / "state.json", {"status": "cancelled", "launched": time.time()})

    monkeypatch.setattr(runner, "_start", stopped)
    first, _ = runner.launch("pretrain", pretrain_settings(workers=1), workspace)
    assert runner.launch("pretrain", pretrain_settings(workers=2), workspace) == (first, "resumed")
    assert runner.read_run(workspace, first)["settings"]["workers"] == 2
    assert runner.launch("pretrain", pretrain_settings(lr=0.5), workspace)[1] == "started"


def test_a_run_that_somebody_waits_for_is_in_the_background_no_more(workspace, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    first, _ = runner.launch("pretrain", pretrain_settings(), workspace, background=True)
    assert runner.read_run(workspace, first)["background"] is True
    assert runner.launch("pretrain", pretrain_settings(), workspace) == (first, "joined")
    assert runner.read_run(workspace, first)["background"] is False


def test_what_processes_of_an_earlier_start_said_is_forgotten(workspace, monkeypatch):
    monkeypatch.setattr(runner.subprocess, "Popen", lambda *_, **__: None)
    run_id, _ = runner.launch("pretrain", pretrain_settings(), workspace)
    old = workspace.run(run_id) / "process-1.json"
    write_json(old, {"rank": 1, "pid": 1, "error": "of before"})
    runner._start(workspace, run_id)
    assert not old.exists()


def test_other_arms_of_an_encoder_are_another_run(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    started = []
    for arms in (["control"], ["both"], ["control"]):
        settings = JOBS["finetune"].settings(dataset="photos", encoder="tiny", arms=arms)
        started.append(runner.launch("finetune", settings, workspace))
    (first, how), (second, how_second), (third, how_third) = started
    assert (how, how_second, how_third) == ("started", "started", "joined")
    assert first == third != second


def test_a_fine_tuning_works_on_the_encoders_it_makes_and_no_others(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    runner.launch("finetune", JOBS["finetune"].settings(dataset="photos", encoder="tiny", seeds=[0, 3]), workspace)
    for name in ("tiny", "tiny-control-s0", "tiny-both-s3"):
        with pytest.raises(Busy, match=f'works on "{name}"'):
            runner.check_idle(workspace, "encoder", name)
    for name in ("tiny-other", "tiny-both-s1", "photos"):
        runner.check_idle(workspace, "encoder", name)


def test_what_a_run_works_on_is_not_removed(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    runner.launch("compare", JOBS["compare"].settings(dataset="photos", encoders=["tiny"]), workspace)
    for command in (["data", "remove", "photos"], ["encoders", "remove", "tiny"]):
        with pytest.raises(Busy, match=f'works on "{command[-1]}"'):
            CliRunner().invoke(app, [*command, "--workspace", str(workspace.root)], catch_exceptions=False)
    assert (workspace.datasets(), workspace.encoders()) == (["photos"], ["tiny"])
    monkeypatch.setattr(runner, "_STARTS_WITHIN", -1.0)  # it never began
    for command in (["data", "remove", "photos"], ["encoders", "remove", "tiny"]):
        assert CliRunner().invoke(app, [*command, "--workspace", str(workspace.root)]).exit_code == 0
    assert (workspace.datasets(), workspace.encoders()) == ([], [])


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
    pid = wait(workspace, run_id, trains)["pid"]
    os.kill(pid, signal.SIGHUP)
    before = runner.read_run(workspace, run_id)["done"]
    wait(workspace, run_id, lambda s: s["done"] > before + 2)
    os.kill(pid, signal.SIGTERM)
    assert wait(workspace, run_id)["status"] == "cancelled"


def test_trainings_are_queued_and_a_queued_one_can_be_cancelled(workspace, photos):
    first, _ = runner.launch("pretrain", pretrain_settings(), workspace)
    wait(workspace, first, trains)
    second, third = (runner.launch("pretrain", pretrain_settings(name=name), workspace)[0] for name in ("own2", "own3"))
    for run_id in (second, third):
        state = wait(workspace, run_id, lambda s: s["status"] == "queued" and s["stage"])
        assert state["stage"] in (f"waiting for {first}", f"waiting for {second}")
    quick, _ = runner.launch("embed", embed_settings(), workspace)  # what is no training does not wait for one
    assert wait(workspace, quick)["status"] == "done"
    runner.cancel(workspace, second)
    assert wait(workspace, second)["status"] == "cancelled"
    assert runner.read_run(workspace, third)["status"] == "queued"
    runner.cancel(workspace, first)
    wait(workspace, first)
    wait(workspace, third, lambda s: s["status"] == "running" and s["done"] > 1)
    runner.kill(workspace, third)
    assert runner.read_run(workspace, third)["status"] == "killed"  # at once: the same click again does not join it


def held(workspace, run_id, job, launched, status="queued", background=False):
    """A run as its own process would leave it, held by this one."""
    import fcntl

    folder = workspace.run(run_id)
    write_json(folder / "config.json", {"job": job, "settings": {}, "background": background, "created": -launched})
    write_json(folder / "state.json", {"status": status, "launched": launched, "updated": launched})
    handle = (folder / "alive").open("w")
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def test_who_goes_first(workspace):
    runs = [
        held(workspace, "t1", "pretrain", 1.0),
        held(workspace, "t2", "finetune", 2.0),
        held(workspace, "f1", "score", 3.0, "running"),
        held(workspace, "f2", "score", 4.0),
        held(workspace, "b1", "compare", 1.5, background=True),
        held(workspace, "b2", "compare", 2.5, background=True),
    ]
    ahead = lambda run_id: runner._ahead(workspace, run_id)  # noqa: E731
    assert ahead("t1") == ""
    assert ahead("t2") == "t1"
    assert ahead("f1") == ahead("f2") == ""  # what somebody waits for starts at once
    assert ahead("b1") in ("f1", "f2")
    assert ahead("b2") in ("f1", "f2", "b1")
    for k in (2, 3):
        runs[k].close()
    assert (ahead("b1"), ahead("b2")) == ("", "b1")
    write_json(workspace.run("t1") / "state.json", {"status": "queued", "launched": 1.0, "updated": 1.0, "slurm": "4242"})
    assert ahead("t2") == ""  # one on a cluster takes nothing from this machine
    write_json(workspace.run("t1") / "state.json", {"status": "queued", "launched": 1.0, "updated": 1.0})
    runs[4].close()  # it died
    assert ahead("b2") == ""
    write_json(workspace.run("t2") / "state.json", {"status": "running", "launched": 2.0})
    assert ahead("t1") == "t2"  # what runs already goes first
    for handle in runs:
        handle.close()


def test_a_process_of_several_begins_when_the_first_one_does(workspace, monkeypatch):
    """While the first waits for its turn the others wait with it; where it ended before, they do not begin."""
    from types import SimpleNamespace

    folder, begun = workspace.run("r"), []
    config = {"job": "score", "settings": {"dataset": "photos", "encoder": "tiny"}}
    monkeypatch.setitem(JOBS._entries, "score", replace(JOBS["score"], run=lambda *_: begun.append(states.copy())))
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(s) for s in numbers]
    try:
        for last, code in ({"status": "running"}, 0), ({"status": "cancelled", "exit_code": 130}, 130):
            states = [{"status": "cancelled", "exit_code": 1, "updated": 99.0}, {"status": "queued"}, {**last, "updated": 101.0}]
            (folder / "state.json").unlink(missing_ok=True)  # the cluster was quicker; then comes that of an attempt before
            ticks = SimpleNamespace(
                sleep=lambda _, ahead=states: write_json(folder / "state.json", ahead.pop(0)), time=lambda: 100.0
            )
            monkeypatch.setattr(runner, "time", ticks)
            assert runner._follow(folder, config, workspace) == code
        write_json(folder / "state.json", {"status": "failed", "exit_code": 2, "updated": 99.0})
        monkeypatch.setattr(runner, "_STARTS_WITHIN", -1.0)  # nothing has followed it for long
        assert runner._follow(folder, config, workspace) == 2
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert begun == [[]]  # once, and not before both states were seen


def test_bad_input_and_bugs_are_told_apart(workspace, photos, monkeypatch):
    run_id, _ = runner.launch("score", JOBS["score"].settings(dataset="photos", encoder="tiny"), workspace)
    state = wait(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("failed", 2)
    assert "no embeddings of photos by tiny" in state["error"]
    with pytest.raises(NotFound, match='unknown run "zzz"'):
        runner.read_run(workspace, "zzz")


def test_a_training_that_goes_bad_has_failed_with_its_last_words(workspace, photos):
    run_id, _ = runner.launch("pretrain", pretrain_settings(epochs=40, lr=1e6, warmup_epochs=0), workspace)
    state = wait(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("failed", 1), state
    assert re.search(r"(loss is (nan|inf)|a weight is NaN or infinite).*Try a lower learning rate", state["error"])
    assert state["error"] in runner.log_tail(workspace, run_id)
    assert workspace.encoders() == ["tiny"]  # no encoder comes of it
    again = CliRunner().invoke(app, ["runs", "list", "--json", "--workspace", str(workspace.root)])
    assert [(r["status"], r["error"]) for r in json.loads(again.stdout)] == [("failed", state["error"])]


def test_a_bug_is_called_one(workspace, photos, monkeypatch):
    def breaks(*_):
        raise KeyError("oops")

    JOBS["embed"]
    entry = JOBS._entries["embed"]
    monkeypatch.setitem(JOBS._entries, "embed", replace(entry, run=breaks))
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    run_id, _ = runner.launch("embed", embed_settings(), workspace)
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(s) for s in numbers]
    try:
        assert runner.execute(workspace, run_id) == 1
        assert signal.getsignal(signal.SIGUSR2) is not signal.SIG_DFL  # SLURM's time is nearly up: saved, not killed
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    state = runner.read_run(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("failed", 1)
    assert "a bug in sslviz: KeyError" in state["error"]


def test_a_run_that_never_started_does_not_run_for_ever(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    run_id, _ = runner.launch("embed", embed_settings(), workspace)
    assert runner.read_run(workspace, run_id)["status"] == "starting"
    with pytest.raises(Busy, match="only just starting"):
        runner.kill(workspace, run_id)
    monkeypatch.setattr(runner, "_STARTS_WITHIN", -1.0)
    assert runner.read_run(workspace, run_id)["status"] == "killed"


def test_two_processes_train_cancel_and_resume_as_one_run(workspace, photos):
    """Under torchrun on the CPU: one state, stopped at the same step, gone on, the encoder made once."""
    bad = sorted(photos.glob("train/*/*"))[::8]
    for path in bad:
        path.write_bytes(b"<html>")
    settings = pretrain_settings(processes=2, epochs=12, input="files", workers=1)
    run_id, _ = runner.launch("pretrain", settings, workspace)
    wait(workspace, run_id, lambda s: s["done"] >= 4)
    runner.cancel(workspace, run_id)
    state = wait(workspace, run_id)
    assert (state["status"], state["exit_code"]) == ("cancelled", 130), runner.log_tail(workspace, run_id)
    runner.resume(workspace, run_id)
    state = wait(workspace, run_id, seconds=240)
    assert state["status"] == "done", runner.log_tail(workspace, run_id)
    assert state["result"]["encoder"] == "own"
    assert [line.split(":")[0] for line in state["result"]["left_out"]] == [str(path.relative_to(photos)) for path in bad]
    import pandas as pd

    assert pd.read_parquet(workspace.run(run_id) / "metrics.parquet")["epoch"].tolist() == list(range(1, 13))


def test_what_ends_another_process_is_said_and_all_are_killed(workspace, photos, monkeypatch):
    """The first process feels a lost connection only; torchrun starts each in a session of its own."""
    folder = workspace.run("20260101-000000-embed-abcd")
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"job": "embed", "settings": {}, "created": time.time(), "background": False})
    write_json(folder / "state.json", {"status": "running"})
    monkeypatch.setenv("RANK", "1")

    def fails(*_):
        raise InputError("its own disk is full.")

    monkeypatch.setitem(JOBS._entries, "embed", replace(JOBS["embed"], run=fails, settings=JOBS["embed"].settings))
    monkeypatch.setattr(runner, "parse", lambda *_: None)
    assert runner.execute(workspace, folder.name) == 2
    monkeypatch.setenv("RANK", "0")

    def lost(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setitem(JOBS._entries, "embed", replace(JOBS["embed"], run=lost))
    runner.execute(workspace, folder.name)
    assert runner.read_run(workspace, folder.name)["error"] == "process 1: its own disk is full."
    killed = []
    monkeypatch.setattr(os, "killpg", lambda pid, signal: killed.append(pid))
    monkeypatch.setattr(os, "getpgid", lambda pid: pid)
    monkeypatch.setattr(runner, "is_held", lambda path: not killed[1:])
    write_json(folder / "state.json", {"status": "running", "pid": 111})
    write_json(folder / "process-1.json", {"rank": 1, "pid": 222, "machine": runner._machine()})
    write_json(folder / "process-2.json", {"rank": 2, "pid": 333, "machine": ["another-node", ""]})  # not ours
    runner.kill(workspace, folder.name)
    assert killed == [111, 222]


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate", "DefaultCPUAllocator: can't allocate memory"])
def test_full_memory_is_no_bug(workspace, photos, monkeypatch, words):
    import torch

    kind = torch.OutOfMemoryError if "CUDA" in words else RuntimeError

    def full(*_):
        raise kind(words)

    monkeypatch.setattr(runner, "_start", lambda *_: None)
    run_id, _ = runner.launch("embed", embed_settings(), workspace)
    monkeypatch.setitem(JOBS._entries, "embed", replace(JOBS["embed"], run=full))
    assert runner.execute(workspace, run_id) == 2
    assert runner.read_run(workspace, run_id)["error"].startswith("out of memory. Choose a smaller --batch-size")


def test_what_a_surrounding_allocation_says_of_processes_is_not_believed(workspace, photos, monkeypatch):
    """An sbatch script with --ntasks=4 that calls sslviz: its run is one process."""
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "WORLD_SIZE": "4", "RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    run_id, _ = runner.launch("pretrain", pretrain_settings(epochs=1), workspace)
    assert wait(workspace, run_id)["status"] == "done"


def test_two_processes_finetune_as_one_run(workspace, photos, tmp_path):
    pretrain(pretrain_settings(epochs=1), workspace, InFolder(tmp_path / "pretrained"))
    values = {"dataset": "photos", "encoder": "own", "arms": ["strong"], "epochs": 2, "lr": 0.01, "optimizer": "sgd"}
    settings = JOBS["finetune"].settings(**values, batch_size=20, empty="highest", refresh_every=1, processes=2)
    run_id, _ = runner.launch("finetune", settings, workspace)
    state = wait(workspace, run_id, seconds=240)
    assert state["status"] == "done", runner.log_tail(workspace, run_id)
    assert [row["encoder"] for row in state["result"]["arms"]] == ["own", "own-strong-s0"]
    assert state["facts"]["processes"] == 2


def _left(workspace, state, run_id="20260101-000000-embed-abcd"):
    folder = workspace.run(run_id)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"job": "embed", "settings": {"dataset": "photos"}, "created": 1.0, "background": False})
    write_json(folder / "state.json", state)
    return folder


def test_nobody_elses_process_is_killed(workspace, photos, monkeypatch):
    killed = []
    monkeypatch.setattr(os, "killpg", lambda pid, signal: killed.append(pid))
    monkeypatch.setattr(runner, "is_held", lambda path: True)
    monkeypatch.setattr(runner, "_DIES_WITHIN", 0.0)
    folder = _left(workspace, {"status": "running", "pid": os.getppid(), "machine": ["another", "pid:[1]"]})
    with pytest.raises(Busy, match=r"runs on another machine or in another container \(another\)"):
        runner.kill(workspace, folder.name)
    child = os.fork()  # a number that another program has now, in a group that it does not lead
    if not child:
        time.sleep(60)
        os._exit(0)
    write_json(folder / "state.json", {"status": "running", "pid": child, "machine": runner._machine()})
    runner.kill(workspace, folder.name)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert killed == []


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"status": 3}', "{"])
@pytest.mark.parametrize("name", ["state.json", "config.json"])
def test_a_damaged_run_stops_nothing(workspace, photos, monkeypatch, name, damage):
    folder = _left(workspace, {"status": "done"})
    (folder / name).write_text(damage)
    (found,) = runner.list_runs(workspace)
    assert found["status"] in ("failed", "killed") or damage == '{"status": 3}'
    if name == "config.json":
        for act in (runner.read_run, runner.cancel, runner.resume):
            with pytest.raises(InputError, match=f"run {folder.name}: its files are damaged; remove it: sslviz runs delete"):
                act(workspace, folder.name)
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    assert runner.launch("embed", embed_settings(), workspace)[1] == "started"
    monkeypatch.setattr(runner, "_STARTS_WITHIN", -1.0)
    assert CliRunner().invoke(app, ["data", "remove", "photos", "--workspace", str(workspace.root)]).exit_code == 0
    runner.delete(workspace, folder.name)
    assert folder.name not in workspace.runs()


def test_numbers_that_json_has_not_do_not_end_the_heartbeat(workspace, photos):
    folder = _left(workspace, {"status": "starting"})
    progress = runner.RunProgress(folder, {"status": "running"})
    progress.note(rank=float("nan"))
    progress.end(status="done", result={"spread": [float("inf")]})
    state = runner.read_run(workspace, folder.name)
    assert (state["facts"], state["result"]) == ({"rank": None}, {"spread": [None]})


def test_a_fact_that_holds_no_longer_is_taken_away(workspace, photos):
    folder = _left(workspace, {"status": "starting"})
    progress = runner.RunProgress(folder, {"status": "running"})
    progress.note(device="cpu", loss=0.5)
    progress.note(loss=None, epoch=0)
    progress.end(status="done", result={})
    assert runner.read_run(workspace, folder.name)["facts"] == {"device": "cpu", "epoch": 0}


def test_a_run_that_ends_between_two_looks_has_not_died(workspace, photos, monkeypatch):
    folder = _left(workspace, {"status": "running", "pid": 1})

    def ends(_):
        write_json(folder / "state.json", {"status": "done", "result": {}})
        return False

    monkeypatch.setattr(runner, "is_held", ends)
    assert runner.read_run(workspace, folder.name)["status"] == "done"


def test_what_a_run_makes_or_takes_without_naming_it_is_not_removed(workspace, photos, monkeypatch):
    monkeypatch.setattr(runner, "_start", lambda *_: None)
    small_encoder(workspace, "tiny-both-s0")
    runner.launch("finetune", JOBS["finetune"].settings(dataset="photos", encoder="tiny"), workspace)
    with pytest.raises(Busy), runner.idle(workspace, "encoder", "tiny-both-s0"):
        raise AssertionError("removed")
    for run in workspace.runs():
        write_json(workspace.run(run) / "state.json", {"status": "done"})
    with runner.idle(workspace, "encoder", "tiny"):
        pass
    runner.launch("compare", JOBS["compare"].settings(dataset="photos", encoders=[]), workspace)
    with pytest.raises(Busy), runner.idle(workspace, "encoder", "tiny"):
        raise AssertionError("removed")


@pytest.mark.parametrize(("seconds", "words"), [(3, "3 s"), (89, "89 s"), (600, "10 min"), (5399, "90 min"), (9000, "2.5 h")])
def test_times_in_words(seconds, words):
    from sslviz.ui.widgets import duration

    assert duration(seconds) == words


def test_the_time_that_is_left_follows_from_what_was_done_now(workspace, photos, monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(runner.time, "monotonic", lambda: now)
    folder = _left(workspace, {"status": "running", "pid": 1})
    assert runner.read_run(workspace, folder.name)["eta_seconds"] is None
    progress = runner.RunProgress(folder, json.loads((folder / "state.json").read_text()))
    progress.stage("training", 20)
    progress.advance(10)  # those a stopped run had done
    now = 104.0
    progress.advance(2)
    assert progress.state["eta_seconds"] == pytest.approx(16)  # two in four seconds, eight are left
    progress.end(status="running")
    monkeypatch.setattr(runner, "is_held", lambda _: True)
    assert CliRunner().invoke(app, ["runs", "list"]).output.count("running 60 % of training") == 1
