"""Runs on a SLURM cluster: submitit writes and submits the script; what happens is read from our own state.json.

Options are written KEY=VALUE,KEY=VALUE: nodes, gpus (of each node: as many processes), and whatever sbatch knows.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TypeVar

from sslviz.errors import InputError, RunFailed, in_one_line
from sslviz.jobs import Settings

_S = TypeVar("_S", bound=Settings)
_ASK_AGAIN = 10.0  # seconds
_OURS = frozenset(
    {"array", "chdir", "error", "export", "export-file", "get-user-env", "gpus-per-node", "input", "job-name", "ntasks"}
    | {"ntasks-per-node", "open-mode", "output", "signal", "wrap"}
)
_ID = re.compile(r"\d+(_\d+)?")
_known: dict[str, tuple[float, bool | None]] = {}


def options(text: str) -> dict[str, str]:
    """ "partition=gpu,gpus=4" -> its keys and values. Raises InputError."""
    found = {}
    for part in text.split(","):
        key, _, value = part.strip().partition("=")
        if not key.replace("-", "").isalnum() or not re.fullmatch(r"[\w:.+*&|@/-]+", value, re.ASCII):
            raise InputError(f'--slurm "{text}": expected KEY=VALUE,KEY=VALUE, for example partition=gpu,gpus=4,time=24:00:00')
        if key in _OURS:
            raise InputError(
                f"--slurm: {key} is not for you to choose; it says what is run, how often, or where its output goes."
            )
        found[key] = value
    return found


def on_cluster(settings: _S, text: str) -> _S:
    """Settings with as many processes as the cluster would start; as they are where no cluster is asked. Raises InputError."""
    if not text:
        return settings
    nodes, gpus = _nodes_and_gpus(options(text))
    return settings.model_copy(update={"processes": nodes * (gpus or 1)})


def _nodes_and_gpus(given: dict[str, str]) -> tuple[int, int]:
    """(nodes, GPUs of each, 0 where none are asked for). Raises InputError."""
    try:
        nodes, gpus = (int(given.get(key, "0")) for key in ("nodes", "gpus"))
    except ValueError:
        raise InputError("--slurm: nodes and gpus are numbers.") from None
    return nodes or 1, gpus


def submit(folder: Path, text: str, command: list[str]) -> str:
    """Submit `command`, one task for each GPU of each node; returns SLURM's job id.

    Raises InputError where this is no machine of a cluster, submitit is missing, or SLURM refuses.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise InputError("--slurm needs submitit: pip install submitit") from None
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise InputError("--slurm: there is no sbatch and srun on this machine; run it on a login node of the cluster.")
    given = options(text)
    nodes, gpus = _nodes_and_gpus(given)
    executor = SlurmExecutor(folder=folder / "slurm")
    own = {"gpus_per_node": gpus} if gpus else {}
    executor.update_parameters(
        job_name=folder.name,
        nodes=nodes,
        ntasks_per_node=gpus or 1,
        time=given.pop("time", None),  # submitit's own default is five minutes
        srun_args=["--kill-on-bad-exit=1"],  # else the others wait for one that failed
        additional_parameters={key: value for key, value in given.items() if key not in ("nodes", "gpus")},
        **own,
    )
    try:
        return str(executor.submit(run_command, command).job_id)
    except Exception as error:  # submitit passes sbatch's words on in errors of many kinds
        raise InputError(f"SLURM did not take the run: {in_one_line(error, 400)}") from None


def run_command(command: list[str]) -> None:
    """What a task on the cluster does: the command takes this process's place. When time is nearly up SLURM signals the process
    it started, some clusters no other: the command then saves, where submitit would kill it."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # until the command listens
    os.execvp(command[0], command)


def knows(job_id: str) -> bool | None:
    """Whether SLURM still has this job waiting or running (asked at most every ten seconds); None where nobody can be asked."""
    asked, answer = _known.get(job_id, (0.0, None))
    if not _ID.fullmatch(job_id):
        return None
    if time.monotonic() - asked > _ASK_AGAIN or not asked:
        try:
            done = subprocess.run(
                ["squeue", "--noheader", "--jobs", job_id, "--format", "%T"],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
            gone = "invalid job id" in done.stderr.lower() if done.returncode else not done.stdout.strip()
            answer = not gone  # a controller that does not answer has not forgotten the job
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        _known[job_id] = (time.monotonic(), answer)
    return answer


def end(job_id: str) -> None:
    """Take a job off the cluster. Raises RunFailed where SLURM does not."""
    if not _ID.fullmatch(job_id):
        raise InputError(f'"{job_id[:40]}" is no number of a SLURM job.')
    try:
        done = subprocess.run(["scancel", job_id], capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        raise RunFailed(f"scancel {job_id}: no answer within 30 seconds.") from None
    if done.returncode:
        raise RunFailed(f"scancel {job_id}: {done.stderr.strip()[-200:]}")
    _known.pop(job_id, None)
