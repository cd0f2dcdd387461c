"""sslviz runs …"""

import json
from typing import Annotated

import typer

from sslviz.cli.following import follow
from sslviz.cli.options import JsonOption, WorkspaceOption
from sslviz.cli.results import print_result
from sslviz.cli.terminal import in_line, out
from sslviz.store.workspace import Workspace

runs_app = typer.Typer(help="Running and past jobs.", no_args_is_help=True)


@runs_app.command("list")
def runs_list(workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """List all runs, newest first."""
    from sslviz.jobs.runner import list_runs, works_on

    states = list_runs(Workspace(workspace))
    if as_json:
        print(json.dumps(states, ensure_ascii=False))
        return
    for s in states:
        share = f" {100 * s['done'] // s['total']} % of {s['stage']}" if s["status"] == "running" and s["total"] else ""
        out.print(f"{s['id']}  {works_on(s)}  {s['status']}{share}  {s['seconds']:.0f} s  {s['error']}".rstrip(), markup=False)
    if not states:
        out.print("No run yet.")


@runs_app.command("show")
def runs_show(run: str, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Show a run's settings, state and the end of its log."""
    from sslviz.jobs.runner import log_tail, read_run

    where = Workspace(workspace)
    state = read_run(where, run)
    if as_json:
        print(json.dumps(state, ensure_ascii=False))
        return
    for key in ("id", "job", "status", "stage", "done", "total", "facts", "settings", "warnings", "error"):
        if state[key] not in ("", [], {}, None):
            out.print(f"{key}: {in_line(state[key])}", markup=False)
    out.print(log_tail(where, run), markup=False)


@runs_app.command("cancel")
def runs_cancel(
    run: str,
    workspace: WorkspaceOption = None,
    force: Annotated[bool, typer.Option(help="end it at once, without saving")] = False,
) -> None:
    """Stop a run; it saves what it has."""
    from sslviz.jobs.runner import cancel, kill

    (kill if force else cancel)(Workspace(workspace), run)
    out.print(f"run {run} {'ended' if force else 'stops; it saves what it has'}. Go on: sslviz runs resume {run}", markup=False)


@runs_app.command("resume")
def runs_resume(run: str, workspace: WorkspaceOption = None, as_json: JsonOption = False) -> None:
    """Go on with a run that was cancelled, killed or failed."""
    from sslviz.jobs.runner import read_run, resume

    where = Workspace(workspace)

    def start() -> tuple[str, bool]:
        resume(where, run)
        return run, True

    result = follow(start, where)
    if as_json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print_result(read_run(where, run)["job"], result, where)


@runs_app.command("delete")
def runs_delete(run: str, workspace: WorkspaceOption = None) -> None:
    """Remove an ended run and its files."""
    from sslviz.jobs.runner import delete

    delete(Workspace(workspace), run)
    out.print(f"run {run} deleted.", markup=False)
