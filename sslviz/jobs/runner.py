"""Runs: a job in a process and session of its own, followed through files only.

runs/<id>/config.json what to do · state.json where it is, rewritten every half second · log · cancel (somebody pressed stop) ·
alive (locked by the running process, so a dead one is recognised at once, on reload, in a second tab, after a restart) ·
process-<rank>.json where several processes share the run.
A hung-up terminal or a stopped server leaves a run running. One training at a time runs in a workspace, the next ones are queued;
background runs wait for one another and for what somebody is waiting for.
"""

import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from sslviz.errors import Busy, Cancelled, InputError, NotFound, SslvizError, of_memory, said
from sslviz.jobs import JOBS, Settings, parse
from sslviz.jobs import slurm as cluster
from sslviz.progress import Progress
from sslviz.store.files import is_held, read_json, write_json
from sslviz.store.workspace import Workspace

ACTIVE = ("starting", "queued", "running")
_BEAT = 0.5
_STARTS_WITHIN = 60.0
_BEAT_LOST = 60.0
_DIES_WITHIN = 10.0
_FOLLOWER = "process-{}.json"
"""In a run's folder: another process of the run than the first, and what ended it."""
_DEFAULTS: dict[str, Any] = {
    "slurm": "",
    "stage": "",
    "done": 0,
    "total": 0,
    "facts": {},
    "warnings": [],
    "eta_seconds": None,
    "result": None,
    "error": "",
    "exit_code": None,
}
"""What a state.json need not say."""
_OF_MACHINE = frozenset({"device", "workers"})
"""Settings that change no result."""
_OF_PROCESSES = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"})
_OF_TASKS = frozenset({"SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID"})
"""Names in the environment by which launchers count processes; a run that starts here has its own, and nothing of SLURM's."""


def launch(job: str, settings: Settings, workspace: Workspace, background: bool = False, slurm: str = "") -> tuple[str, str]:
    """Start a job; returns (run id, what happened: "started", "resumed" or "joined").

    `background`: nobody waits for it · slurm: options of a cluster to submit it to, "" to run it here. Where the same job is
    running with the same settings it is joined; an unfinished run of the very same settings is resumed. Raises Busy where it
    is running on the same target with other settings.
    """
    workspace.create()
    config: dict[str, Any] = {"job": job, "settings": settings.model_dump(mode="json")}
    with _starting(workspace):
        for state in list_runs(workspace):
            if state["job"] != job:
                continue
            if state["status"] in ACTIVE and _target(state) == _target(config):
                if others := _others(state["settings"], config["settings"]):
                    raise Busy(
                        f"{job} of {works_on(state)} is running with other settings ({', '.join(others)}). Wait for it, or "
                        f"cancel it: sslviz runs cancel {state['id']}"
                    )
                if state["background"] and not background:  # now somebody waits for it
                    path = workspace.run(state["id"]) / "config.json"
                    write_json(path, {**read_json(path), "background": False})
                return state["id"], "joined"
        for state in list_runs(workspace):
            if state["job"] == job and not _others(state["settings"], config["settings"]):
                if state["status"] in ("cancelled", "killed", "failed"):
                    path = workspace.run(state["id"]) / "config.json"
                    write_json(path, {**read_json(path), **config, "background": background, "slurm": slurm})
                    _start(workspace, state["id"])
                    return state["id"], "resumed"
                break
        run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{job}-{uuid4().hex[:4]}"
        write_json(
            workspace.run(run_id) / "config.json", {**config, "background": background, "slurm": slurm, "created": time.time()}
        )
        try:
            _start(workspace, run_id)
        except (SslvizError, OSError):  # a cluster did not take it, or this machine has no place for another process
            shutil.rmtree(workspace.run(run_id))
            raise
        return run_id, "started"


def _others(settings: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """The settings asked for that are others and change a result."""
    return [name for name, value in asked.items() if name not in _OF_MACHINE and settings.get(name) != value]


def resume(workspace: Workspace, run_id: str) -> None:
    """Start an ended run again from where it stopped. Raises NotFound, Busy when it is running, InputError when it is done."""
    workspace.existing_run(run_id)
    with _starting(workspace):
        state = read_run(workspace, run_id)
        if state["status"] in ACTIVE:
            raise Busy(f"run {run_id} is running already. Look: sslviz runs show {run_id}")
        if state["status"] == "done":
            raise InputError(f"run {run_id} is done; there is nothing to resume.")
        _start(workspace, run_id)


@contextmanager
def _starting(workspace: Workspace) -> Iterator[None]:
    """One at a time looks at the runs of a workspace and starts one."""
    (workspace.root / "runs").mkdir(exist_ok=True)
    with (workspace.root / "runs" / ".launch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cancel(workspace: Workspace, run_id: str) -> None:
    """Ask a run to stop; it saves what it has. Raises NotFound, InputError when it is not running."""
    state = _active(workspace, run_id)
    (workspace.run(run_id) / "cancel").touch()
    if state["slurm"] and state["status"] == "queued":
        cluster.end(state["slurm"])
        write_json(workspace.run(run_id) / "state.json", {"status": "cancelled", "error": "before it began."})


def kill(workspace: Workspace, run_id: str) -> None:
    """Stop a run that does not answer, with everything it started, without saving.

    Raises NotFound, InputError when it is not running, Busy while its process is only just starting.
    """
    state = _active(workspace, run_id)
    if state["slurm"]:
        (workspace.run(run_id) / "cancel").touch()  # until SLURM has ended it, it is seen to be stopping
        cluster.end(state["slurm"])
    elif state.get("pid") and is_held(workspace.run(run_id) / "alive"):
        if (where := state.get("machine", _machine())) != _machine():
            raise Busy(f"run {run_id} runs on another machine or in another container ({where[0]}); end it there.")
        with suppress(ProcessLookupError):
            if os.getpgid(int(state["pid"])) == int(state["pid"]):  # a run leads a group of its own
                os.killpg(int(state["pid"]), signal.SIGKILL)
        for path in workspace.run(run_id).glob(_FOLLOWER.format("*")):  # torchrun starts each in a session of its own
            if (other := read_json(path)).get("machine", _machine()) == _machine():
                with suppress(ProcessLookupError):
                    os.killpg(int(other["pid"]), signal.SIGKILL)
        end = time.monotonic() + _DIES_WITHIN
        while is_held(workspace.run(run_id) / "alive") and time.monotonic() < end:  # else the next click would join it
            time.sleep(0.01)
    else:
        raise Busy(f"run {run_id} is only just starting; try again in a moment.")


def _active(workspace: Workspace, run_id: str) -> dict[str, Any]:
    state = read_run(workspace, run_id)
    if state["status"] not in ACTIVE:
        raise InputError(f"run {run_id} is not running (it is {state['status']}).")
    return state


def delete(workspace: Workspace, run_id: str) -> None:
    """Remove an ended run's folder. Raises NotFound, Busy when it is running."""
    folder = workspace.existing_run(run_id)
    with _starting(workspace):
        status = _described(workspace, run_id)["status"]
        if is_held(folder / "alive") or status in ACTIVE:
            now = status if status in ACTIVE else "running"
            raise Busy(f"run {run_id} is {now}; cancel it first: sslviz runs cancel {run_id}")
        shutil.rmtree(folder)


@contextmanager
def idle(workspace: Workspace, kind: str, name: str) -> Iterator[None]:
    """While nothing works on this "dataset" or "encoder", and nothing begins to. Raises Busy where a run does."""
    workspace.create()
    with _starting(workspace):
        check_idle(workspace, kind, name)
        yield


def remove(workspace: Workspace, kind: Literal["dataset", "encoder"], name: str) -> None:
    """Take a data set or an encoder out of the workspace, with all that was made from it. Raises NotFound, Busy."""
    folder = workspace.existing_dataset(name) if kind == "dataset" else workspace.existing_encoder(name)
    with idle(workspace, kind, name):
        shutil.rmtree(folder)
        for made in ("embeddings", "results"):
            for part in (workspace.root / made).glob(name if kind == "dataset" else f"*/{name}"):
                shutil.rmtree(part)


def _machine() -> list[str]:
    """Where process numbers mean the same: the machine, and the container in it."""
    container = Path("/proc/self/ns/pid")
    return [socket.gethostname(), os.readlink(container) if container.is_symlink() else ""]


def read_run(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """A run as it is now: id, job, settings, background, status (starting, queued, running, done, failed, cancelled, killed),
    stage, done, total, facts, warnings, result, error, exit_code, seconds, eta_seconds, cancelling. Raises NotFound; InputError
    where its files are damaged."""
    folder = workspace.existing_run(run_id)
    try:
        return _read(folder)
    except (InputError, KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"run {run_id}: its files are damaged; remove it: sslviz runs delete {run_id}") from None


def _read(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    path = folder / "state.json"
    state = read_json(path) if path.exists() else {"status": "starting"}
    if state["status"] in ACTIVE and not is_held(folder / "alive") and not _on_cluster(state):
        state = read_json(path) if path.exists() else state
        started = state.get("launched", config["created"])
        if state["status"] in ("queued", "running") or (state["status"] == "starting" and time.time() - started > _STARTS_WITHIN):
            state = {
                **state,
                "status": "killed",
                "error": "its process ended without a word (killed, or the machine restarted). "
                f"Go on: sslviz runs resume {folder.name}",
            }
    state = {
        **_DEFAULTS,
        **state,
        "id": folder.name,
        "job": config["job"],
        "settings": config["settings"],
        "background": config.get("background", False),
        "created": config["created"],
    }
    end = state.get("updated", time.time()) if state["status"] not in ACTIVE else time.time()
    state["cancelling"] = state["status"] in ACTIVE and (folder / "cancel").exists()
    state["seconds"] = max(0.0, end - state.get("launched", config["created"]))
    return state


def _on_cluster(state: dict[str, Any]) -> bool:
    """Whether a run on a cluster is waiting or working there: another machine's lock need not be seen from here."""
    if not state.get("slurm"):
        return False
    if 0 <= time.time() - state.get("updated", 0) < _BEAT_LOST:
        return True
    known = cluster.knows(state["slurm"])
    return state["status"] == "queued" if known is None else known


def list_runs(workspace: Workspace) -> list[dict[str, Any]]:
    """All runs, newest first."""
    runs = []
    for run_id in workspace.runs():
        try:
            runs.append(_described(workspace, run_id))
        except (NotFound, FileNotFoundError):
            continue  # deleted while we looked
    return sorted(runs, key=lambda run: float(run["created"]), reverse=True)


def _described(workspace: Workspace, run_id: str) -> dict[str, Any]:
    """As `read_run`; a run whose files are damaged is one that failed, not the end of every page. Raises NotFound."""
    try:
        return read_run(workspace, run_id)
    except NotFound:
        raise
    except InputError as error:
        folder = workspace.existing_run(run_id)
        about = {"id": run_id, "job": "damaged", "settings": {}, "background": False}
        now = folder.stat().st_mtime
        times = {"created": now, "updated": now, "seconds": 0.0, "cancelling": False}
        return {**_DEFAULTS, **about, **times, "status": "failed", "error": str(error), "exit_code": 2}


def check_idle(workspace: Workspace, kind: str, name: str) -> None:
    """Raises Busy where a run works on this "dataset" or "encoder"."""
    from sslviz.jobs.finetune import FinetuneSettings

    for run in list_runs(workspace):
        own = run["settings"]
        several = own.get(f"{kind}s", ())
        if run["status"] not in ACTIVE:
            continue
        made = [own.get("name")]
        if run["job"] == "finetune":
            made = FinetuneSettings.model_construct(**own).encoder_names() if kind == "encoder" else []
        everything = several == []  # compare: all that are scored
        if everything or name in (own.get(kind), *made, *several):
            raise Busy(f'run {run["id"]} works on "{name}". Wait for it, or cancel it: sslviz runs cancel {run["id"]}')


def works_on(state: dict[str, Any]) -> str:
    """What a run works on, in words: data set, encoder, name."""
    own = state["settings"]
    words = " by ".join(str(own[k]) for k in ("dataset", "encoder") if own.get(k))
    return " as ".join(str(part) for part in (words, own.get("name")) if part)


def in_words(value: Any) -> str:
    """A fact of a run as people read it: numbers with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def log_tail(workspace: Workspace, run_id: str, lines: int = 40) -> str:
    """The last lines of a run's log."""
    path = workspace.existing_run(run_id) / "log"
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class RunProgress(Progress):
    """Progress that writes state.json and hears of a cancel, from a file or SIGTERM."""

    def __init__(self, folder: Path, first: dict[str, Any]) -> None:
        self.folder: Path = folder
        self.state = {**first, "stage": "", "done": 0, "total": 0, "facts": {}, "warnings": [], "eta_seconds": None}
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._stage_began = (time.monotonic(), 0)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self.write()
        self._thread.start()

    def stage(self, name: str, total: int = 0) -> None:
        self.check()
        with self._lock:
            self.state.update(stage=name, done=0, total=total, eta_seconds=None)
            self._stage_began = (time.monotonic(), 0)
        self.write()

    def advance(self, done: int = 1) -> None:
        with self._lock:
            if self.state["done"] == 0 and done > 1 and done < self.state["total"]:
                self._stage_began = (time.monotonic(), done)  # a resumed part: what was done before gives no speed
            self.state["done"] += done
            began, before = self._stage_began
            fresh, left = self.state["done"] - before, self.state["total"] - self.state["done"]
            if fresh > 0 and left >= 0:
                self.state["eta_seconds"] = (time.monotonic() - began) / fresh * left
        self.check()

    def note(self, **facts: Any) -> None:
        with self._lock:
            self.state["facts"] = {k: v for k, v in {**self.state["facts"], **facts}.items() if v is not None}

    def warn(self, sentence: str) -> None:
        print("note:", sentence, flush=True)
        with self._lock:
            if sentence not in self.state["warnings"]:
                self.state["warnings"] = [*self.state["warnings"], sentence]

    def check(self) -> None:
        if self.cancelled.is_set():
            raise Cancelled(f"what was finished is kept. Go on: sslviz runs resume {self.folder.name}")

    def end(self, **last: Any) -> None:
        """Write the final state; the heartbeat stops."""
        self._ended.set()
        self._thread.join()
        with self._lock:
            self.state.update(last, eta_seconds=None)
        self.write()

    def write(self) -> None:
        with self._lock:
            content = {**self.state, "updated": time.time()}
        written = json.dumps(content, default=_plain)  # NaN becomes null: JSON has none
        write_json(self.folder / "state.json", json.loads(written, parse_constant=lambda _: None))

    def _beat(self) -> None:
        while not self._ended.wait(_BEAT):
            if (self.folder / "cancel").exists():
                self.cancelled.set()
            try:
                self.write()
            except OSError as error:  # a full disk must not end the work silently; the job's own write will say so
                print("state.json could not be written:", error, flush=True)


def execute(workspace: Workspace, run_id: str) -> int:
    """Run a job in this process; returns the exit code that state.json also names."""
    folder = workspace.existing_run(run_id)
    config = read_json(folder / "config.json")
    if rank():
        return _follow(folder, config, workspace)
    with (folder / "alive").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        before = read_json(folder / "state.json") if (folder / "state.json").exists() else {}
        kept = {"launched": before.get("launched", time.time()), "slurm": before.get("slurm", "")}
        if config.get("slurm"):  # the cluster may begin it before its number has been noted
            kept["slurm"] = os.environ.get("SLURM_JOB_ID", kept["slurm"])
        progress = RunProgress(folder, {"status": "queued", "pid": os.getpid(), "machine": _machine(), **kept})
        for stop in (signal.SIGTERM, signal.SIGUSR2):  # the second: SLURM's time is nearly up
            signal.signal(stop, lambda *_: progress.cancelled.set())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            _wait_for_turn(workspace, run_id, progress)
            entry = JOBS[config["job"]]
            result = entry.run(parse(entry.settings, config["settings"]), workspace, progress)
            progress.end(status="done", exit_code=0, result=result)
            return 0
        except Cancelled as error:
            progress.end(status="cancelled", exit_code=error.exit_code, error=str(error))
            return error.exit_code
        except SslvizError as error:
            print("error:", error, flush=True)  # before the state says that it is over: then the log is whole
            progress.end(status="failed", exit_code=error.exit_code, error=str(error))
            return error.exit_code
        except OSError as error:
            traceback.print_exc()
            progress.end(status="failed", exit_code=2, error=said(error))
            return 2
        except BaseException as error:
            traceback.print_exc()
            if reason := of_memory(error):
                progress.end(status="failed", exit_code=2, error=reason)
                return 2
            reason = f"a bug in sslviz: {type(error).__name__}: {' '.join(str(error).split())[:200]} (its log has the details)."
            progress.end(status="failed", exit_code=1, error=_of_followers(folder) or reason)
            return 1


def _of_followers(folder: Path) -> str:
    """Why another process of the run ended, which the first one only feels as a lost connection; "" where none says so."""
    said = [read_json(path) for path in sorted(folder.glob(_FOLLOWER.format("*")))]
    return next((f"process {one['rank']}: {one['error']}" for one in said if one.get("error")), "")


def forget_launcher() -> None:
    """This process counts for none of a launcher's, though it was started inside its job: app or command on a node."""
    for name in _OF_PROCESSES | _OF_TASKS:
        os.environ.pop(name, None)


def rank() -> int:
    """Which process of its run this one is, as torchrun or SLURM count them; 0 speaks for all."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _follow(folder: Path, config: dict[str, Any], workspace: Workspace) -> int:
    """Take part in a run that another process speaks for."""
    progress = Progress()
    progress.folder = folder
    for stop in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(stop, signal.SIG_IGN)  # the first process hears it and all stop at the same step
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    record = folder / _FOLLOWER.format(rank())
    own = {"rank": rank(), "pid": os.getpid(), "machine": _machine()}
    write_json(record, own)
    entry = JOBS[config["job"]]
    state = _begun(folder)
    if state["status"] != "running":
        return int(state["exit_code"] or 0)
    try:
        entry.run(parse(entry.settings, config["settings"]), workspace, progress)
    except Cancelled as error:
        return error.exit_code
    except BaseException as error:
        traceback.print_exc()
        said = of_memory(error) or (str(error) if isinstance(error, SslvizError) else f"{type(error).__name__}: {error}")
        write_json(record, {**own, "error": said})
        return error.exit_code if isinstance(error, SslvizError) else 1
    return 0


def _begun(folder: Path) -> dict[str, Any]:
    """The state once the first process has had its turn, or has ended. One that ended before this process was there is that of
    an attempt before (the cluster started the run again): it counts only where nothing follows it for long."""
    path, began = folder / "state.json", time.time()
    while True:
        state = read_json(path) if path.exists() else {"status": "starting"}
        if state["status"] == "running":
            return state
        if state["status"] not in ACTIVE and (float(state.get("updated", 0)) >= began or time.time() - began > _STARTS_WITHIN):
            return state
        time.sleep(_BEAT)


def _wait_for_turn(workspace: Workspace, run_id: str, progress: "RunProgress") -> None:
    """Return, as running, when no other run goes first. Raises Cancelled."""
    while not progress.state["slurm"] and (ahead := _ahead(workspace, run_id)):
        progress.stage(f"waiting for {ahead}")
        time.sleep(_BEAT)
        progress.check()
    progress.state["status"] = "running"
    progress.write()


def _ahead(workspace: Workspace, run_id: str) -> str:
    """A run that goes first, "" where none does: of trainings and of background runs the earlier one, of others none; background
    runs also wait for all others but trainings. What runs already goes first."""
    runs = list_runs(workspace)
    own = next(run for run in runs if run["id"] == run_id)

    def order(run: dict[str, Any]) -> tuple[float, str]:
        return run.get("launched", run["created"]), run["id"]

    for other in runs:
        if other["id"] == run_id or other["status"] not in ACTIVE or other.get("slurm"):
            continue  # a run on the cluster takes nothing from this machine
        earlier = other["status"] == "running" or order(other) < order(own)
        training = _trains(other)
        if _trains(own):
            waits = training and earlier
        else:
            waits = own["background"] and not training and (earlier or not other["background"])
        if waits:
            return str(other["id"])
    return ""


def _trains(run: dict[str, Any]) -> bool:
    """Whether a run is a training; one of another version's job is taken for none."""
    return run["job"] in JOBS.names() and JOBS[run["job"]].trains


def _start(workspace: Workspace, run_id: str) -> None:
    folder = workspace.run(run_id)
    (folder / "cancel").unlink(missing_ok=True)
    for follower in folder.glob(_FOLLOWER.format("*")):
        follower.unlink()
    config = read_json(folder / "config.json")
    path, starting = folder / "state.json", {"status": "starting", "launched": time.time()}
    before = read_json(path) if path.exists() else None
    write_json(path, starting)
    if options := config.get("slurm", ""):
        command = (
            f"exec {shlex.quote(sys.executable)} -u -m sslviz.jobs.runner {run_id} >> {shlex.quote(str(folder / 'log'))} 2>&1"
        )
        where = f"export PYTHONSAFEPATH=1 SSLVIZ_WORKSPACE={shlex.quote(str(workspace.root))}; "
        try:
            job_id = cluster.submit(folder, options, ["bash", "-c", where + command])
        except SslvizError:
            write_json(path, before) if before else path.unlink()
            raise
        if read_json(path)["status"] == "starting":  # else it has begun meanwhile
            write_json(path, {**starting, "status": "queued", "stage": f"waiting for SLURM (job {job_id})", "slurm": job_id})
        return
    inherited = {k: v for k, v in os.environ.items() if k not in _OF_PROCESSES and not k.startswith("SLURM_")}
    environment = {**inherited, "SSLVIZ_WORKSPACE": str(workspace.root), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
    with (folder / "log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, *_program(config["settings"]), run_id],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment,
        )


def _program(settings: dict[str, Any]) -> list[str]:
    """What python runs; with several processes under torchrun."""
    many = settings.get("processes", 1)
    launcher = [] if many == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={many}"]
    return [*launcher, "-m", "sslviz.jobs.runner"]


def _target(config: dict[str, Any]) -> list[Any]:
    settings = config["settings"]
    if config["job"] in ("finetune", "export"):  # other arms or seeds of an encoder, another part of it, are another run
        return [settings]
    return [settings.get(k) for k in ("dataset", "encoder", "encoders", "name", "method", "source")]


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


if __name__ == "__main__":
    sys.exit(execute(Workspace(), sys.argv[1]))
