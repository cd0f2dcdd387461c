"""Runs on a cluster, without one: programs named sbatch, srun, squeue and scancel stand on PATH and note what they are asked."""

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from sslviz.data import dataset as datasets
from sslviz.errors import InputError, RunFailed
from sslviz.jobs import JOBS, runner, slurm
from sslviz.store.files import write_json
from tests.inputs import folder
from tests.jobs.test_runner import pretrain_settings, trains, wait

SBATCH = """import shutil, sys
shutil.copy(sys.argv[-1], {here!r} + "/script.sh")
print("Submitted batch job 4242")
"""
SRUN = """import os, subprocess, sys
command = sys.argv[sys.argv.index({python!r}):]
os.environ.update(SLURM_JOB_ID="4242", SLURM_NTASKS="1", SLURM_NTASKS_PER_NODE="1", SLURM_PROCID="0", SLURM_LOCALID="0",
                  SLURM_NODEID="0", SLURM_NNODES="1", SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="here")
sys.exit(subprocess.call(command))
"""
SQUEUE = """import pathlib
print(pathlib.Path({here!r} + "/queue").read_text(), end="")
"""
SCANCEL = """import pathlib, sys
pathlib.Path({here!r} + "/ended").write_text(sys.argv[1])
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    here = tmp_path / "cluster"
    here.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("squeue", SQUEUE), ("scancel", SCANCEL)):
        path = here / name
        path.write_text(f"#!{sys.executable}\n" + text.format(here=str(here), python=sys.executable))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (here / "queue").write_text("PENDING\n")
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_ASK_AGAIN", 0.0)
    monkeypatch.setattr(slurm, "_known", {})
    return here


@pytest.fixture
def photos(tmp_path, workspace):
    datasets.add_folder(workspace, "photos", folder(tmp_path / "photos", {"train/a": 20, "train/b": 20}))


def submit(workspace, options="partition=gpu,nodes=2,gpus=8,time=1-00:00:00", **settings):
    return runner.launch("pretrain", pretrain_settings(**{"epochs": 2, **settings}), workspace, slurm=options)[0]


def test_the_script_asks_for_what_was_asked(cluster, workspace, photos):
    submit(workspace)
    script = (cluster / "script.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in script if line.startswith("#SBATCH")}
    assert {"partition=gpu", "nodes=2", "gpus-per-node=8", "ntasks-per-node=8", "time=1-00:00:00"} <= asked
    (started,) = (line for line in script if line.startswith("srun "))
    assert "submitit.core._submit" in started
    assert "--kill-on-bad-exit=1" in started  # else the others wait for one that failed


def test_a_run_waits_begins_and_ends_on_the_cluster(cluster, workspace, photos):
    run_id = submit(workspace, "partition=cpu")
    state = runner.read_run(workspace, run_id)
    assert (state["status"], state["slurm"], state["stage"]) == ("queued", "4242", "waiting for SLURM (job 4242)")
    done = subprocess.run(["bash", str(cluster / "script.sh")], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    state = wait(workspace, run_id)
    assert (state["status"], state["result"]["encoder"], state["slurm"]) == ("done", "own", "4242")
    assert "own" in workspace.encoders()


SRUN_TWICE = """import os, subprocess, sys
command = sys.argv[sys.argv.index({python!r}):]
both = dict(os.environ, SLURM_JOB_ID="4242", SLURM_NTASKS="2", SLURM_NTASKS_PER_NODE="2", SLURM_NNODES="1", SLURM_NODEID="0",
            SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="localhost", SLURM_NODELIST="localhost", SLURM_JOB_NAME="training")
tasks = [subprocess.Popen(command, env=dict(both, SLURM_PROCID=str(k), SLURM_LOCALID=str(k))) for k in (0, 1)]
sys.exit(max(task.wait() for task in tasks))
"""


def test_two_tasks_of_the_cluster_train_as_one_run(cluster, workspace, photos):
    (cluster / "srun").write_text(f"#!{sys.executable}\n" + SRUN_TWICE.format(python=sys.executable))
    run_id = submit(workspace, "partition=gpu,gpus=2", device="cpu")
    assert "#SBATCH --ntasks-per-node=2" in (cluster / "script.sh").read_text()
    done = subprocess.run(["bash", str(cluster / "script.sh")], capture_output=True, text=True, timeout=300, check=False)
    logs = [path.read_text() for path in (workspace.run(run_id) / "slurm").glob("*.err")]
    assert done.returncode == 0, (done.stderr[-1000:], logs)
    state = wait(workspace, run_id)
    assert (state["status"], state["result"]["encoder"], workspace.encoders()) == ("done", "own", ["own"])
    (follower,) = workspace.run(run_id).glob(runner._FOLLOWER.format("*"))
    record = json.loads(follower.read_text())
    assert (record["rank"], record.get("error")) == (1, None)
    assert state["pid"] != record["pid"]


def test_a_run_saves_when_slurms_time_is_nearly_up_and_goes_on_later(cluster, workspace, photos):
    """SLURM sends SIGUSR2 to the process that it started, 90 seconds before it kills the step (with cgroups to no other)."""
    run_id = submit(workspace, "partition=gpu,time=1-00:00:00", epochs=2000)
    noted = "sys.exit(subprocess.call(command))"
    srun = (cluster / "srun").read_text()
    assert noted in srun
    told = f"task = subprocess.Popen(command)\nopen({str(cluster / 'task')!r}, 'w').write(str(task.pid))\nsys.exit(task.wait())"
    (cluster / "srun").write_text(srun.replace(noted, told))
    job = subprocess.Popen(["bash", str(cluster / "script.sh")], stderr=subprocess.PIPE, text=True)
    trained = wait(workspace, run_id, trains)["done"]
    os.kill(int((cluster / "task").read_text()), signal.SIGUSR2)
    _, said = job.communicate(timeout=60)
    state = runner.read_run(workspace, run_id)
    assert (state["status"], state["done"] >= trained) == ("cancelled", True), said[-2000:]
    saved = torch.load(workspace.run(run_id) / "checkpoint.pt", weights_only=True)
    assert saved["step"] >= trained
    assert submit(workspace, "", epochs=2000) == run_id
    assert wait(workspace, run_id, lambda s: s["status"] == "running" and s["done"] > saved["step"])
    runner.kill(workspace, run_id)


def test_a_run_that_begins_before_its_number_is_noted_keeps_its_own_state(cluster, workspace, photos, monkeypatch):
    """sbatch may return after the first task has begun; a run's own word is not overwritten."""
    begins = f"""import pathlib
(run,) = pathlib.Path({str(workspace.root)!r}).glob("runs/*-pretrain-*")
assert '"starting"' in (run / "state.json").read_text()
(run / "state.json").write_text('{{"status": "running", "slurm": "4242"}}')
print("Submitted batch job 4242")
"""
    (cluster / "sbatch").write_text(f"#!{sys.executable}\n" + begins)
    run_id = submit(workspace)
    assert runner.read_run(workspace, run_id)["status"] == "running"
    write_json(workspace.run(run_id) / "state.json", {"status": "starting"})
    monkeypatch.setitem(JOBS._entries, "pretrain", replace(JOBS["pretrain"], run=lambda *_: {}))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    numbers = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
    before = [signal.getsignal(s) for s in numbers]
    try:
        assert runner.execute(workspace, run_id) == 0
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert runner.read_run(workspace, run_id)["slurm"] == "77"


def test_a_cluster_that_refuses_leaves_a_run_as_it_was(cluster, workspace, photos):
    run_id = submit(workspace)
    runner.cancel(workspace, run_id)
    (cluster / "sbatch").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Invalid partition')\n")
    with pytest.raises(InputError, match="Invalid partition"):
        runner.resume(workspace, run_id)
    assert runner.read_run(workspace, run_id)["status"] == "cancelled"


def test_until_the_command_listens_slurms_signal_is_ignored(monkeypatch):
    heard, before = [], signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr(os, "execvp", lambda *_: heard.append(signal.getsignal(signal.SIGUSR2)))
    try:
        slurm.run_command(["true"])
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIG_IGN]


@pytest.mark.parametrize("key", ["array", "ntasks", "ntasks-per-node", "gpus-per-node", "signal", "job-name"])
def test_how_often_a_run_is_started_is_not_for_options_to_say(key):
    with pytest.raises(InputError, match=f"--slurm: {key} is not for you to choose"):
        slurm.options(f"{key}=2")


def test_a_waiting_run_is_taken_off_the_cluster(cluster, workspace, photos):
    run_id = submit(workspace)
    runner.cancel(workspace, run_id)
    assert (cluster / "ended").read_text() == "4242"
    assert runner.read_run(workspace, run_id)["status"] == "cancelled"


def test_a_run_that_is_killed_is_taken_off_the_cluster(cluster, workspace, photos):
    run_id = submit(workspace)
    runner.kill(workspace, run_id)
    assert (cluster / "ended").read_text() == "4242"
    (cluster / "scancel").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('Invalid user for job 4242')\n")
    with pytest.raises(RunFailed, match="scancel 4242: Invalid user for job 4242"):
        runner.kill(workspace, run_id)


def test_a_run_that_slurm_has_forgotten_does_not_wait_for_ever(cluster, workspace, photos):
    run_id = submit(workspace)
    (cluster / "queue").write_text("")
    assert runner.read_run(workspace, run_id)["status"] == "killed"
    runner.resume(workspace, run_id)
    (cluster / "queue").write_text("PENDING\n")
    assert runner.read_run(workspace, run_id)["status"] == "queued"


def test_a_controller_that_does_not_answer_has_not_forgotten_a_run(cluster, workspace, photos):
    run_id = submit(workspace)
    says = f"#!{sys.executable}\nimport sys\nsys.exit({{!r}})\n"
    (cluster / "squeue").write_text(says.format("slurm_load_jobs error: Unable to contact slurm controller (connect failure)"))
    assert runner.read_run(workspace, run_id)["status"] == "queued"
    (cluster / "squeue").write_text(says.format("slurm_load_jobs error: Invalid job id specified"))
    assert runner.read_run(workspace, run_id)["status"] == "killed"


def test_an_ended_run_goes_on_where_it_is_asked_for_now(cluster, workspace, photos):
    run_id = submit(workspace, "partition=gpu")
    assert "--time" not in (cluster / "script.sh").read_text()  # the cluster's own limit
    runner.cancel(workspace, run_id)
    assert submit(workspace, "partition=other,time=1-00:00:00") == run_id
    script = (cluster / "script.sh").read_text()
    assert "--partition=other" in script
    assert "--time=1-00:00:00" in script
    runner.cancel(workspace, run_id)
    assert submit(workspace, "") == run_id
    assert wait(workspace, run_id)["status"] == "done"


def test_one_that_works_on_another_machine_is_believed_while_its_heart_beats(cluster, workspace, photos):
    import time

    run_id = submit(workspace)
    (cluster / "queue").write_text("")
    state = {"status": "running", "slurm": "4242", "launched": time.time(), "updated": time.time()}
    write_json(workspace.run(run_id) / "state.json", state)
    assert runner.read_run(workspace, run_id)["status"] == "running"
    write_json(workspace.run(run_id) / "state.json", {**state, "updated": time.time() - 120})
    assert runner.read_run(workspace, run_id)["status"] == "killed"
    (cluster / "queue").write_text("RUNNING\n")  # a slow file system, or a clock that is behind
    assert runner.read_run(workspace, run_id)["status"] == "running"
    (cluster / "squeue").unlink()
    assert runner.read_run(workspace, run_id)["status"] == "killed"  # nobody to ask: what the heartbeat says


def test_a_killed_one_is_seen_to_be_stopping_while_its_heart_still_beats(cluster, workspace, photos):
    import time

    run_id = submit(workspace)
    state = {"status": "running", "slurm": "4242", "launched": time.time(), "updated": time.time()}
    write_json(workspace.run(run_id) / "state.json", state)
    runner.kill(workspace, run_id)
    assert runner.read_run(workspace, run_id)["cancelling"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("partition", "expected KEY=VALUE"),
        ("gpus=many", "nodes and gpus are numbers"),
        ("a b=3", "expected KEY=VALUE"),
        ("partition=gpu\ntouch /tmp/harm #", "expected KEY=VALUE"),
        ("output=/home/u/.bashrc", "output is not for you to choose"),
    ],
)
def test_options_that_are_none_leave_no_run_behind(cluster, workspace, photos, options, words):
    with pytest.raises(InputError, match=words):
        submit(workspace, options)
    assert runner.list_runs(workspace) == []


def test_what_sbatch_says_is_passed_on(cluster, workspace, photos):
    (cluster / "sbatch").write_text(f"#!{sys.executable}\nimport sys\nsys.exit('invalid partition specified: gpu')\n")
    with pytest.raises(InputError, match=r"SLURM did not take the run: .*invalid partition specified: gpu"):
        submit(workspace)
    assert runner.list_runs(workspace) == []


def test_without_a_cluster_it_says_so(workspace, photos, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="there is no sbatch and srun on this machine"):
        submit(workspace)


def test_the_command_line_submits(cluster, workspace, photos):
    """--slurm on the command; Ctrl-C while it waits takes it off the cluster."""
    import signal

    words = ["pretrain", "--dataset", "photos", "--name", "cli", "--batch-size", "20", "--slurm", "partition=gpu", "--json"]
    code = "from sslviz.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    for line in process.stderr:
        if line.startswith("run "):
            break
    (state,) = runner.list_runs(workspace)
    assert state["status"] == "queued"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert (cluster / "ended").read_text() == "4242"
    assert json.loads((workspace.run(state["id"]) / "config.json").read_text())["slurm"] == "partition=gpu"


def test_an_interrupt_while_a_run_is_submitted_takes_it_off_again(cluster, workspace, photos):
    early = "import os, signal\nos.kill(os.getppid(), signal.SIGINT)\n"
    (cluster / "sbatch").write_text(f"#!{sys.executable}\n{early}" + SBATCH.format(here=str(cluster)))
    words = ["pretrain", "--dataset", "photos", "--name", "cli", "--batch-size", "20", "--slurm", "partition=gpu"]
    code = "from sslviz.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert (cluster / "ended").read_text() == "4242"
    (state,) = runner.list_runs(workspace)
    assert state["status"] == "cancelled"


def test_what_a_run_calls_its_job_is_no_option_of_slurms(cluster):
    with pytest.raises(InputError, match="is no number of a SLURM job"):
        slurm.end("--user=me")
    assert slurm.knows("--user=me") is None
