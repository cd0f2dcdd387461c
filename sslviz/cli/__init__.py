"""The command line: a command a job, and the groups data, encoders and runs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sslviz.cli.data import data_app
from sslviz.cli.encoders import encoders_app
from sslviz.cli.jobs import register_jobs
from sslviz.cli.options import WorkspaceOption
from sslviz.cli.runs import runs_app
from sslviz.cli.terminal import err, fail
from sslviz.errors import Busy, Cancelled, SslvizError, said
from sslviz.jobs.runner import forget_launcher
from sslviz.store.workspace import Workspace

app = typer.Typer(
    help="Is this self-supervised image encoder any good, where does it fail, and why? To begin: sslviz app --demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(encoders_app, name="encoders")
app.add_typer(runs_app, name="runs")


def main() -> None:
    """The one place where our error becomes a line and an exit code."""
    forget_launcher()  # a run that starts in a cluster's shell has its own processes
    try:
        app(standalone_mode=True)
    except SslvizError as error:
        fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        fail("cancelled.", Cancelled.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        fail(said(error), 2)
    except Exception:
        fail(f"this is a bug in sslviz. The details are in {_write_bug_report()}", 1)


def _write_bug_report() -> Path:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="sslviz-bug-", suffix=".log", delete=False) as handle:
        handle.write(" ".join(sys.argv) + "\n\n" + traceback.format_exc())
    return Path(handle.name)


@app.command("app")
def serve(
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="port; default the first free one from 8501")] = None,
    address: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    root: Annotated[
        list[Path] | None, typer.Option(help="folder the app may read files from; default home and the current folder")
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="prepare the demo in the background first, where it is not there yet")
    ] = False,
    workspace: WorkspaceOption = None,
) -> None:
    """Start the app and print its URL; Ctrl-C stops the app, running jobs continue.

    Example: sslviz app --workspace workspace
    """
    from sslviz.jobs.demo import start_demo
    from sslviz.ui.server import serve_app

    if root:
        os.environ["SSLVIZ_ROOTS"] = os.pathsep.join(str(p.expanduser().absolute()) for p in root)
    where = Workspace(workspace).create()
    if demo:
        try:
            if run_id := start_demo(where):
                err.print(f"run {run_id} prepares the demo; the page shows its progress.", style="dim", markup=False)
        except Busy as error:  # somebody renders it
            err.print(str(error), style="dim", markup=False)
    serve_app(where, port, address)


register_jobs(app)
