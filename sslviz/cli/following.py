"""Starting a run and following it until it ends."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sslviz.cli.terminal import err, fail
from sslviz.errors import Cancelled, InputError
from sslviz.jobs import Job, Settings
from sslviz.store.workspace import Workspace


def run(job: Job, settings: Settings, workspace: Workspace, slurm: str = "") -> dict[str, Any]:
    """Launch a run of this job, or join the one that is at it, and follow it: see `follow`."""
    from sslviz.jobs.runner import launch

    def start() -> tuple[str, bool]:
        run_id, how = launch(job.name, settings, workspace, slurm=slurm)
        err.print(f"run {run_id} {how}.", style="dim", markup=False)
        return run_id, how != "joined"

    return follow(start, workspace)


def follow(start: Callable[[], tuple[str, bool]], workspace: Workspace) -> dict[str, Any]:
    """The result of a run, whose progress is shown until it ends; a hung-up terminal leaves it running.

    start: starts it and gives (run id, whether it is ours: then Ctrl-C and SIGTERM cancel it; one that was only joined goes on).
    Ends the command with the run's error and exit code where it did not succeed.
    """
    import signal

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sslviz.jobs.runner import ACTIVE, cancel, in_words, read_run

    heard: list[int] = []

    def stop(number: int, _: object) -> None:
        heard.append(number)  # an exception would be lost where Python happens to be in an import or a finalizer
        if len(heard) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}"),
    )
    said: list[str] = []
    cancelled = False
    try:
        run_id, ours = start()
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("starting", total=None, facts="")
            while True:
                if heard and not ours:
                    fail(
                        f"run {run_id} goes on; it was started elsewhere. Stop it: sslviz runs cancel {run_id}",
                        Cancelled.exit_code,
                    )
                if heard and not cancelled:
                    cancelled = True
                    err.print("stopping; what is finished is kept …", markup=False)
                    with suppress(InputError):  # it has just ended: how, is read next
                        cancel(workspace, run_id)
                state = read_run(workspace, run_id)
                plan = state["facts"].pop("plan", "")
                facts = ", ".join(f"{k.replace('_', ' ')} {in_words(v)}" for k, v in state["facts"].items())
                bar.update(
                    task,
                    description=state["stage"] or state["status"],
                    completed=state["done"],
                    total=state["total"] or None,
                    facts=facts,
                )
                waiting = [state["stage"]] if state["status"] == "queued" and state["stage"] else []
                for line in [plan, *waiting, *state["warnings"]]:
                    if line and line not in said:
                        said.append(line)
                        bar.console.print(f"note: {line}", style="yellow", markup=False)
                if state["status"] not in ACTIVE:
                    break
                time.sleep(0.2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if state["status"] != "done":
        code = state["exit_code"] or (Cancelled.exit_code if state["status"] == "cancelled" else 1)
        lead = "" if code == 2 else f"run {run_id} {state['status']}: "
        fail(lead + state["error"], code)
    result: dict[str, Any] = state["result"]
    return result
